//! The value types of the configuration: durations, sizes, addresses, and text that may live in a
//! file. Each parses one spelling into a type that cannot be wrong, and renders the same spelling.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A length of time such as `10s`, `5m` or `1h30m`; never negative.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Interval(pub Duration);

impl Interval {
    /// `seconds` seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is not a duration such as `10s`, `5m` or `1h30m`");
        let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
        Duration::try_from(span).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(span) => write!(f, "{span:#}"),
            // Longer than 2^63 seconds; nothing that was parsed is.
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

/// A number of bytes: a plain number, or with a suffix as Kubernetes writes quantities
/// (`Ki`, `Mi`, `Gi`, `Ti` are powers of 1,024; `k`, `M`, `G`, `T` of 1,000).
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Size(pub u64);

/// Suffixes, longest first: `Ki` must be tried before a bare digit string is.
const SUFFIXES: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, unit) = SUFFIXES
            .iter()
            .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
            .unwrap_or((text, 1));
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse::<u64>().ok()?.checked_mul(unit))
            .flatten()
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a size such as `512Mi`, `9Gi` or `10G`"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The largest binary unit that divides it, so that parse(display(x)) == x.
        let unit = SUFFIXES[..4]
            .iter()
            .rev()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        match unit {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Text given in the configuration itself, or `file:PATH` for the content of a file.
#[derive(Clone, Eq, PartialEq)]
pub enum Source {
    /// The content of this file, without the white space around it.
    File(PathBuf),
    /// The text itself.
    Inline(String),
}

impl Source {
    /// The text, read from its file if it is in one.
    ///
    /// # Errors
    /// A message that names the file and why it could not be read.
    pub fn read(&self) -> Result<String, String> {
        match self {
            Self::Inline(text) => Ok(text.trim().to_owned()),
            Self::File(path) => std::fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|error| format!("cannot read {}: {error}", path.display())),
        }
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("file:") {
            Some("") => Err("`file:` needs a path after it".to_owned()),
            Some(path) => Ok(Self::File(path.into())),
            None => Ok(Self::Inline(text.to_owned())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Inline(text) => f.write_str(text),
        }
    }
}

/// Does not show inline text: some of it is a token.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Inline(_) => f.write_str("(inline)"),
        }
    }
}

/// A socket address to listen on, such as `[::]:8080`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listen(pub SocketAddr);

impl Listen {
    /// Where to listen instead when this machine has no IPv6: only the wildcard has such a place.
    pub fn without_ipv6(self) -> Option<SocketAddr> {
        (self.0.is_ipv6() && self.0.ip().is_unspecified())
            .then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.0.port())))
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| {
            format!("`{text}` is not an address and port such as `[::]:8080` or `127.0.0.1:8080`")
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Gives a type with `FromStr` and `Display` the same form in a configuration file.
macro_rules! serde_as_text {
    ($($type:ty, $expecting:literal;)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Text($expecting))?.parse().map_err(D::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

serde_as_text! {
    Interval, "a duration such as `10s`";
    Listen, "an address and port such as `[::]:8080`";
    Size, "a size such as `9Gi`";
    Source, "text, or `file:PATH`";
}

/// Takes a string or a bare number, because `9000` needs no quotes in YAML.
struct Text(&'static str);

impl serde::de::Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

/// One value or a list of them (`listen`).
pub(super) fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    let texts = match OneOrMany::deserialize(deserializer)
        .map_err(|_| D::Error::custom("expected one address, or a list of them"))?
    {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    };
    texts
        .iter()
        .map(|text| text.parse().map_err(D::Error::custom))
        .collect()
}

/// `Option` whose `None` is the empty string, the way the defaults are written down.
pub(super) mod empty_is_none {
    use super::{Deserialize, Deserializer, FromStr, Serializer, fmt};
    use serde::de::Error as _;

    pub(crate) fn serialize<S: Serializer, T: fmt::Display>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_str(""),
        }
    }

    pub(crate) fn deserialize<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr,
        T::Err: fmt::Display,
    {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_reads_as_kubernetes_writes_it() {
        for (text, want) in [
            ("0", Some(0)),
            ("8192", Some(8_192)),
            ("128Mi", Some(128 << 20)),
            ("9Gi", Some(9 << 30)),
            ("10G", Some(10_000_000_000)),
            ("16777215Ti", Some(16_777_215 << 40)), // the largest that fits
            ("16777216Ti", None),
            ("", None),
            ("Gi", None),
            ("-1", None),
            ("1.5Gi", None),
            ("9GiB", None),
        ] {
            assert_eq!(text.parse::<Size>().ok(), want.map(Size), "size {text:?}");
        }
    }

    #[test]
    fn units_round_trip() {
        for bytes in [0, 1, 1023, 1024, 9 << 30, (9 << 30) + 1, u64::MAX] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        for text in ["10s", "5m", "1h", "720h"] {
            let interval: Interval = text.parse().expect("a duration");
            assert_eq!(interval.to_string().parse(), Ok(interval), "{text}");
        }
        assert!("-5s".parse::<Interval>().is_err());
        assert!("5".parse::<Interval>().is_err());
    }

    #[test]
    fn inline_text_is_not_shown_by_debug() {
        assert_eq!(
            format!("{:?}", Source::Inline("hunter2".to_owned())),
            "(inline)"
        );
    }
}
