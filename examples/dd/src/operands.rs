//! The operands of the command line.

use spdk_plugin::{Error, Result};

/// What to copy.
#[derive(Debug)]
pub(crate) struct Operands {
    pub(crate) input: String,
    pub(crate) output: String,
    /// Bytes of a block.
    pub(crate) bs: u64,
    /// Blocks to copy; all there are if none.
    pub(crate) count: Option<u64>,
    /// Blocks to leave out at the start of the input.
    pub(crate) skip: u64,
    /// Blocks to leave out at the start of the output.
    pub(crate) seek: u64,
    /// Blocks to copy at a time.
    pub(crate) depth: u64,
}

impl Operands {
    /// Takes what reads `name=value`. Options, and what follows them, are SPDK's.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self> {
        let (mut input, mut output, mut count) = (None, None, None);
        let (mut bs, mut skip, mut seek, mut depth) = (64 << 10, 0, 0, 8);
        for arg in args.filter(|arg| !arg.starts_with('-')) {
            let Some((name, value)) = arg.split_once('=') else { continue };
            match name {
                "if" => input = Some(value.to_owned()),
                "of" => output = Some(value.to_owned()),
                "bs" => bs = number(name, value, 1..=1 << 30)?,
                "count" => count = Some(number(name, value, 0..=u64::MAX)?),
                "skip" => skip = number(name, value, 0..=u64::MAX)?,
                "seek" => seek = number(name, value, 0..=u64::MAX)?,
                "qd" => depth = number(name, value, 1..=1024)?,
                _ => return Err(Error::Invalid(format!("there is no operand '{name}'"))),
            }
        }
        let missing =
            |name: &str| Error::Invalid(format!("{name}=NAME of a bdev or file is missing"));
        let input = input.ok_or_else(|| missing("if"))?;
        let output = output.ok_or_else(|| missing("of"))?;
        Ok(Self { input, output, bs, count, skip, seek, depth })
    }
}

/// A number with K, M or G behind it, or none of them.
fn number(name: &str, text: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let value = digits.parse::<u64>().ok().and_then(|value| value.checked_mul(1 << shift));
    value.filter(|value| range.contains(value)).ok_or_else(|| {
        let (first, last) = range.into_inner();
        Error::Invalid(format!("{name} is '{text}': expected a number from {first} to {last}"))
    })
}
