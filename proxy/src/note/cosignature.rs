//! Cosignatures: a third party states that it saw a checkpoint, and when.
//! See <https://c2sp.org/tlog-cosignature>.
//!
//! A cosignature makes no checkpoint trusted: it is counted beside the log's own signature, and
//! [`Note::open`](super::Note::open) is where that is enforced.

/// Bytes of the time before the signature.
const TIME_BYTES: usize = 8;

/// Bytes of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;

/// What a cosignature/v1 signature line holds behind the key ID; unverified.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cosignature<'a> {
    /// When the cosigner saw it: seconds since 1970 (UTC).
    pub time: u64,
    /// Ed25519, over [`Cosignature::message`].
    pub signature: &'a [u8],
}

impl<'a> Cosignature<'a> {
    /// Splits a signature into its time and the signature proper; `None` if it has another length.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (time, signature) = bytes.split_first_chunk::<TIME_BYTES>()?;
        (signature.len() == SIGNATURE_BYTES).then_some(Self {
            time: u64::from_be_bytes(*time),
            signature,
        })
    }

    /// What is signed for a note with this text: it and the time, under a name of its own so that no
    /// signature of a log is ever one of a cosigner.
    pub fn message(&self, text: &[u8]) -> Vec<u8> {
        let head = format!("cosignature/v1\ntime {}\n", self.time);
        [head.as_bytes(), text].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosignature_is_a_time_and_64_bytes() {
        for (bytes, fits) in [(0, false), (8, false), (71, false), (72, true), (73, false)] {
            assert_eq!(
                Cosignature::parse(&vec![1; bytes]).is_some(),
                fits,
                "{bytes} bytes"
            );
        }
    }

    #[test]
    fn the_signed_message_is_the_one_of_the_specification() {
        let bytes = [&1_679_315_147_u64.to_be_bytes()[..], &[7; 64]].concat();
        let cosignature = Cosignature::parse(&bytes).expect("72 bytes");
        assert_eq!(
            cosignature.message(b"rome.example/2026h1\n0\n"),
            b"cosignature/v1\ntime 1679315147\nrome.example/2026h1\n0\n"
        );
    }
}
