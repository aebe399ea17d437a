//! The list of peers, as a file says it.

use serde::Deserialize;
use url::Url;

/// Longest list, in bytes: thirty times what sixteen replicas need.
const MAX_LIST_BYTES: usize = 64 << 10;

/// Most peers. Each holds the whole cache, so more add load on the log but hardly any speed.
const MAX_PEERS: usize = 64;

/// The only version there is.
const VERSION: u32 = 1;

/// One replica of the list.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name, which decides what it owns.
    pub name: String,
    /// Where it answers peers.
    pub url: Url,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    peers: Vec<Member>,
}

/// Reads `{version: 1, peers: [{name, url}]}`, as JSON or YAML, for the replica called `this`.
///
/// # Errors
/// What is wrong with it. A list without `this` is somebody else's: whoever used it would own nothing
/// and leave its part to nobody.
pub fn parse(text: &str, this: &str) -> Result<Vec<Member>, String> {
    if text.len() > MAX_LIST_BYTES {
        return Err(format!("it has more than {MAX_LIST_BYTES} bytes"));
    }
    let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!(
            "it is of version {}; {VERSION} is known",
            file.version
        ));
    }
    let mut members = file.peers;
    if members.len() > MAX_PEERS {
        return Err(format!(
            "it has {} peers; at most {MAX_PEERS}",
            members.len()
        ));
    }
    for Member { name, url } in &mut members {
        if name.is_empty() || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(format!("`{}` is not a name of a peer", name.escape_debug()));
        }
        if !matches!(url.scheme(), "http" | "https") || url.query().is_some() {
            return Err(format!(
                "`{name}` needs an http:// or https:// URL without a query"
            ));
        }
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some([twice, _]) = members.array_windows().find(|[a, b]| a.name == b.name) {
        return Err(format!("`{}` is in it twice", twice.name));
    }
    if members.iter().all(|member| member.name != this) {
        return Err(format!("`{this}`, which this is, is not in it"));
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "{version: 1, peers: [{name: b, url: 'http://b:8081'}, \
                       {name: a, url: 'http://a:8081/x'}]}";

    #[test]
    fn a_list_is_json_or_yaml_and_its_order_says_nothing() {
        let members = parse(TWO, "a").expect("a list");
        let read: Vec<_> = members.iter().map(|m| (&*m.name, m.url.as_str())).collect();
        assert_eq!(read, [("a", "http://a:8081/x/"), ("b", "http://b:8081/")]);
        let json = r#"{"version": 1, "peers": [{"name": "a", "url": "http://a"}]}"#;
        assert_eq!(parse(json, "a").map(|members| members.len()), Ok(1));
    }

    #[test]
    fn what_is_no_list_for_us_is_refused_with_why() {
        let many = |n: usize| {
            let peers: Vec<_> = (0..n)
                .map(|i| format!("{{name: p{i}, url: 'http://p{i}'}}"))
                .collect();
            format!("{{version: 1, peers: [{}]}}", peers.join(", "))
        };
        for (text, want) in [
            ("", ""),
            ("<html>", ""),
            ("{version: 2, peers: []}", "version 2; 1 is known"),
            (
                "{version: 1, peers: []}",
                "`p0`, which this is, is not in it",
            ),
            (TWO, "`p0`, which this is, is not in it"),
            (
                "{version: 1, peers: [{name: p0, url: 'ftp://a'}]}",
                "needs an http://",
            ),
            (
                "{version: 1, peers: [{name: p0, url: 'http://a/?q'}]}",
                "needs an http://",
            ),
            (
                "{version: 1, peers: [{name: '', url: 'http://a'}]}",
                "not a name",
            ),
            (
                "{version: 1, peers: [{name: 'a b', url: 'http://a'}]}",
                "not a name",
            ),
            (
                "{version: 1, peers: [{name: p0, url: 'http://a', zone: x}]}",
                "zone",
            ),
            (
                "{version: 1, peers: [{name: p0, url: 'http://a'}, {name: p0, url: 'http://b'}]}",
                "`p0` is in it twice",
            ),
            (&many(MAX_PEERS + 1), "65 peers; at most 64"),
            (
                &format!("{}#{}", many(1), " ".repeat(MAX_LIST_BYTES)),
                "more than 65536 bytes",
            ),
        ] {
            let error = parse(text, "p0").expect_err(text);
            assert!(error.contains(want), "{text:.80}: {error}");
        }
        assert!(parse(&many(MAX_PEERS), "p0").is_ok());
    }
}
