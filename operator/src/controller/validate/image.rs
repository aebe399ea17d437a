//! Puts the image together from what the spec says and what the operator brings.

use crate::crd::Image;

/// What the spec says, and the operand's image for what it leaves out: the repository, and the tag
/// unless the spec has a digest, also for another repository, which is then taken for a mirror. The
/// operand's digest pins only the operand's image: it goes once the spec says anything.
pub(super) fn image_reference(image: &Image, operand: &str) -> String {
    let Image {
        repository,
        tag,
        digest,
        pull_policy: _,
    } = image;
    if repository.is_empty() && tag.is_empty() && digest.is_empty() {
        return operand.to_owned();
    }
    let operand = operand.split_once('@').map_or(operand, |(name, _)| name);
    // A colon before the last slash belongs to the port of a registry.
    let path = operand.rfind('/').map_or(0, |slash| slash + 1);
    let (operand_repository, operand_tag) = match operand[path..].find(':') {
        Some(colon) => (&operand[..path + colon], &operand[path + colon + 1..]),
        None => (operand, ""),
    };
    let repository = if repository.is_empty() {
        operand_repository
    } else {
        repository
    };
    let tag = if tag.is_empty() && digest.is_empty() {
        operand_tag
    } else {
        tag
    };
    let mut reference = repository.to_owned();
    if !tag.is_empty() {
        reference = format!("{reference}:{tag}");
    }
    if !digest.is_empty() {
        reference = format!("{reference}@{digest}");
    }
    reference
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_the_operators_where_the_spec_is_silent() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (repository, tag, digest, operand, want) in [
            (
                "",
                "",
                "",
                "a.example:5000/p:1",
                "a.example:5000/p:1".to_owned(),
            ),
            (
                "",
                "2",
                "",
                "a.example:5000/p:1",
                "a.example:5000/p:2".to_owned(),
            ),
            (
                "b.example/q",
                "",
                "",
                "a.example:5000/p:1",
                "b.example/q:1".to_owned(),
            ),
            (
                "b.example/q",
                "2",
                "",
                "a.example:5000/p",
                "b.example/q:2".to_owned(),
            ),
            (
                "",
                "2",
                "",
                "a.example:5000/p",
                "a.example:5000/p:2".to_owned(),
            ), // 5000 is a port
            ("", "2", "", "p:1@sha256:aa", "p:2".to_owned()), // another tag is not that digest
            ("", "", digest.as_str(), "p:1", format!("p@{digest}")),
        ] {
            let image = Image {
                repository: repository.to_owned(),
                tag: tag.to_owned(),
                digest: digest.to_owned(),
                ..Image::default()
            };
            assert_eq!(image_reference(&image, operand), want);
        }
    }
}
