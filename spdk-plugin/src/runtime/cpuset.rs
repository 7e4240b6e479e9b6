//! Sets of cores (`spdk/cpuset.h`).

use std::fmt;
use std::str::FromStr;

use spdk_plugin_sys as sys;

use crate::error::{Error, Result};

/// The most cores that SPDK counts.
const MOST: u32 = sys::SPDK_CPUSET_SIZE;

/// A set of cores, of the 1024 that SPDK counts.
///
/// ```
/// use spdk_plugin::runtime::CpuSet;
///
/// let set: CpuSet = "[0,2-3]".parse()?;
/// assert_eq!(set.iter().collect::<Vec<_>>(), [0, 2, 3]);
/// assert_eq!(set.to_string(), "0xd");
/// assert_eq!("d".parse::<CpuSet>()?, set);
/// # Ok::<(), spdk_plugin::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CpuSet {
    words: [u64; (MOST / 64) as usize],
}

impl CpuSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { words: [0; (MOST / 64) as usize] }
    }

    /// The set of every core.
    pub const fn all() -> Self {
        Self { words: [u64::MAX; (MOST / 64) as usize] }
    }

    /// The set of one core.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert).
    pub fn of(core: u32) -> Result<Self> {
        let mut set = Self::new();
        set.insert(core)?;
        Ok(set)
    }

    /// Adds a core.
    ///
    /// # Errors
    /// [`Error::Invalid`] from 1024 on.
    pub fn insert(&mut self, core: u32) -> Result<()> {
        if core >= MOST {
            let why = format!("core {core} is beyond SPDK's last, {}", MOST - 1);
            return Err(Error::Invalid(why));
        }
        self.words[(core / 64) as usize] |= 1 << (core % 64);
        Ok(())
    }

    /// Takes a core out.
    pub fn remove(&mut self, core: u32) {
        if core < MOST {
            self.words[(core / 64) as usize] &= !(1 << (core % 64));
        }
    }

    /// Whether a core is in it.
    pub fn contains(&self, core: u32) -> bool {
        core < MOST && self.words[(core / 64) as usize] & (1 << (core % 64)) != 0
    }

    /// How many cores are in it.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Its cores, from the lowest on.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..MOST).filter(|core| self.contains(*core))
    }

    /// Runs `function` with the set as C has it.
    pub(crate) fn with_raw<R>(&self, function: impl FnOnce(*mut sys::spdk_cpuset) -> R) -> R {
        let mut raw = sys::spdk_cpuset::default();
        for core in self.iter() {
            // SAFETY: the set lives through the call, and the core is in range.
            unsafe { sys::spdk_cpuset_set_cpu(&raw mut raw, core, true) };
        }
        function(&raw mut raw)
    }

    /// # Safety
    /// `raw` points at a set.
    pub(crate) unsafe fn from_raw(raw: *const sys::spdk_cpuset) -> Self {
        let mut set = Self::new();
        for core in 0..MOST {
            // SAFETY: says the caller; the core is in range.
            if unsafe { sys::spdk_cpuset_get_cpu(raw, core) } {
                set.words[(core / 64) as usize] |= 1 << (core % 64);
            }
        }
        set
    }
}

impl Default for CpuSet {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<u32> for CpuSet {
    /// Cores from 1024 on are left out.
    fn from_iter<I: IntoIterator<Item = u32>>(cores: I) -> Self {
        let mut set = Self::new();
        for core in cores {
            let _ = set.insert(core);
        }
        set
    }
}

/// As a mask in hexadecimal, which SPDK's options take.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let top = self.words.iter().rposition(|word| *word != 0).unwrap_or(0);
        write!(f, "{:#x}", self.words[top])?;
        self.words[..top].iter().rev().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuSet({self})")
    }
}

/// A mask (`0x3`, `3`) or a list (`[0,2-3]`), as SPDK's options have it.
impl FromStr for CpuSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.strip_prefix('[') {
            Some(list) => parse_list(list),
            None => parse_mask(text.strip_prefix("0x").unwrap_or(text)),
        };
        parsed.ok_or_else(|| {
            let forms = "write a mask such as 0x3, or a list such as [0,2-3], of cores below 1024";
            Error::Invalid(format!("'{text}' is no set of cores: {forms}"))
        })
    }
}

fn parse_list(list: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in list.strip_suffix(']')?.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last {
            return None;
        }
        (first..=last.min(MOST)).try_for_each(|core| set.insert(core)).ok()?;
    }
    Some(set)
}

fn parse_mask(digits: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    if digits.is_empty() || digits.len() > MOST as usize / 4 {
        return None;
    }
    for (at, digit) in digits.chars().rev().enumerate() {
        set.words[at / 16] |= u64::from(digit.to_digit(16)?) << (at % 16 * 4);
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::CpuSet;

    #[test]
    fn masks_and_lists_are_read_back() {
        for (text, cores) in [
            ("0x1", &[0][..]),
            ("F", &[0, 1, 2, 3]),
            ("[7]", &[7]),
            ("[0, 2-4,1023]", &[0, 2, 3, 4, 1023]),
            ("0x10000000000000001", &[0, 64]),
        ] {
            let set: CpuSet = text.parse().unwrap();
            assert_eq!(set.iter().collect::<Vec<_>>(), cores, "{text}");
            assert_eq!(set.len(), cores.len());
            assert_eq!(set.to_string().parse::<CpuSet>().unwrap(), set);
        }
        assert!(CpuSet::new().is_empty() && CpuSet::new().to_string() == "0x0");
        assert_eq!(CpuSet::all().to_string().len(), 2 + 256);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let long = "f".repeat(257);
        for text in
            ["", "0x", "g", "[", "[1", "[]", "[2-1]", "[1024]", "[0-4294967295]", "-1", &long]
        {
            assert!(text.parse::<CpuSet>().is_err(), "{text}");
        }
        assert!(CpuSet::of(1024).is_err());
    }
}
