//! Whether a program brings everything it needs: images hold no shared libraries.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Fails unless the 64-bit little-endian ELF program at `path` runs without a loader.
pub fn require_static(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match wants_loader(&bytes) {
        Some(false) => Ok(()),
        Some(true) => bail!(
            "{} is linked dynamically; images need static programs",
            path.display()
        ),
        None => bail!(
            "{} is not a 64-bit little-endian ELF program",
            path.display()
        ),
    }
}

/// Whether one of the program headers is `PT_INTERP`; none where this is no such program. See elf(5).
fn wants_loader(bytes: &[u8]) -> Option<bool> {
    const ELF64_LITTLE_ENDIAN: &[u8] = b"\x7fELF\x02\x01";
    const PT_INTERP: u32 = 3;
    if !bytes.starts_with(ELF64_LITTLE_ENDIAN) {
        return None;
    }
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let table = u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?);
    let table = usize::try_from(table).ok()?;
    let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for header in 0..count {
        let at = table.checked_add(header * size)?;
        let kind = bytes.get(at..at.checked_add(4)?)?;
        if kind == PT_INTERP.to_le_bytes() {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_themselves_are_linked_dynamically() {
        let us = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(wants_loader(&us), Some(true));
        assert_eq!(wants_loader(&us[..60]), None); // cut within the header table
        assert_eq!(wants_loader(b"#!/bin/sh\n"), None);
    }
}
