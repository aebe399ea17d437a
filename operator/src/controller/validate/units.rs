//! Durations, sizes and names, each within its range.

use std::{ops::RangeInclusive, time::Duration};

use tile_proxy::config::{Interval, Size};

use super::{Invalid, invalid};

/// A duration within `range`, in seconds.
pub(super) fn interval(
    field: &str,
    text: &str,
    range: RangeInclusive<u64>,
) -> Result<Interval, Invalid> {
    let interval: Interval = text.parse().map_err(|why| invalid(field, why))?;
    let (from, to) = (
        Interval::seconds(*range.start()),
        Interval::seconds(*range.end()),
    );
    if (from.0..=to.0).contains(&interval.0) {
        return Ok(interval);
    }
    Err(invalid(
        field,
        format!("is {text}; must be between {from} and {to}"),
    ))
}

/// A duration of whole minutes within `range`, in seconds; as minutes.
pub(super) fn minutes(field: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, Invalid> {
    let Interval(interval) = self::interval(field, text, range)?;
    if interval == Duration::from_secs(interval.as_secs() / 60 * 60) {
        return Ok(interval.as_secs() / 60);
    }
    Err(invalid(field, "must be whole minutes, such as 5m"))
}

/// A size within `range`.
pub(super) fn size(field: &str, text: &str, range: RangeInclusive<Size>) -> Result<Size, Invalid> {
    let size: Size = text.parse().map_err(|why| invalid(field, why))?;
    if range.contains(&size) {
        return Ok(size);
    }
    let most = if range.end().0 == u64::MAX {
        String::new()
    } else {
        format!(" and at most {}", range.end())
    };
    Err(invalid(
        field,
        format!("is {text}; must be at least {}{most}", range.start()),
    ))
}

/// A number within `range`.
pub(super) fn number<N>(field: &str, number: N, range: &RangeInclusive<N>) -> Result<N, Invalid>
where
    N: Copy + PartialOrd + std::fmt::Display,
{
    if range.contains(&number) {
        return Ok(number);
    }
    let (from, to) = (range.start(), range.end());
    Err(invalid(field, format!("must be {from} to {to}")))
}

/// Whether `name` can name an object: DNS labels of a-z, 0-9 and '-', joined by dots.
pub(super) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Whether `label` is a DNS label: up to 63 of a-z, 0-9 and '-', which is at neither end.
pub(super) fn is_dns_label(label: &str) -> bool {
    label.len() <= 63 && is_label(label)
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Whether `value` can be the value of a label.
pub(super) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_qualified(value)
}

/// Whether `key` can be the key of a label or annotation.
pub(super) fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified(name),
        None => is_qualified(key),
    }
}

/// Up to 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends.
fn is_qualified(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
