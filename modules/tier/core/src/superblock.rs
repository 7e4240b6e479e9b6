//! What each disk says of the pair: which cache belongs to which slow disk, and who has seen the other
//! last. How it is stored, twice and with a checksum, is the caller's.

use std::fmt;

use crate::geometry::Geometry;

/// The bytes of either.
const SIZE: usize = 128;

/// What the fast disk says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastSuper {
    /// The pair.
    pub id: [u8; 16],
    /// Counts the starts.
    pub generation: u64,
    /// In the records of this formatting.
    pub stamp: u64,
    /// The layout.
    pub geometry: Geometry,
    /// It was stopped in order; nothing follows from it.
    pub clean: bool,
}

/// What the slow disk says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowSuper {
    /// The pair.
    pub id: [u8; 16],
    /// Counts the starts; that of the cache is one ahead for a moment.
    pub generation: u64,
    /// No cache has anything newer: it may be used with a new one.
    pub complete: bool,
    /// It was written to without its cache, what that calls clean is out of date.
    pub degraded: bool,
}

struct Writer([u8; SIZE], usize);

impl Writer {
    fn put(mut self, bytes: &[u8]) -> Self {
        self.0[self.1..self.1 + bytes.len()].copy_from_slice(bytes);
        self.1 += bytes.len();
        self
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        self.take().map(|[byte]: [u8; 1]| byte != 0)
    }
}

impl FastSuper {
    /// The bytes of an encoded one.
    pub const SIZE: usize = SIZE;

    /// As bytes.
    pub fn encode(&self) -> [u8; SIZE] {
        let geometry = &self.geometry;
        Writer([0; SIZE], 0)
            .put(&self.id)
            .put(&self.generation.to_le_bytes())
            .put(&self.stamp.to_le_bytes())
            .put(&geometry.block_size.to_le_bytes())
            .put(&geometry.line_blocks.to_le_bytes())
            .put(&geometry.sets.to_le_bytes())
            .put(&geometry.slow_lines.to_le_bytes())
            .put(&geometry.records_at.to_le_bytes())
            .put(&geometry.lines_at.to_le_bytes())
            .put(&[u8::from(self.clean)])
            .0
    }

    /// From bytes that may be anything. The geometry is to be checked against the disks.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        Some(Self {
            id: from.take()?,
            generation: from.u64()?,
            stamp: from.u64()?,
            geometry: Geometry {
                block_size: from.u32()?,
                line_blocks: from.u32()?,
                sets: from.u64()?,
                slow_lines: from.u64()?,
                records_at: from.u64()?,
                lines_at: from.u64()?,
            },
            clean: from.flag()?,
        })
    }
}

impl SlowSuper {
    /// As bytes.
    pub fn encode(&self) -> [u8; SIZE] {
        Writer([0; SIZE], 0)
            .put(&self.id)
            .put(&self.generation.to_le_bytes())
            .put(&[u8::from(self.complete), u8::from(self.degraded)])
            .0
    }

    /// From bytes that may be anything.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        Some(Self {
            id: from.take()?,
            generation: from.u64()?,
            complete: from.flag()?,
            degraded: from.flag()?,
        })
    }
}

/// What is to be done with a pair of disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// They belong together: load the cache, under the next generation. `stale`: without what it calls
    /// clean.
    Load {
        /// The next generation.
        generation: u64,
        /// The slow disk was written to meanwhile.
        stale: bool,
    },
    /// Make a new pair of them.
    Format,
}

/// Why a pair of disks is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindError {
    /// Neither has a superblock, and nobody said that they may be overwritten.
    Blank,
    /// The slow disk is whole, and the fast one is blank or another's.
    FastUnknown,
    /// The slow disk lacks what is only on another fast one.
    OtherCache,
    /// The fast disk is the slow disk's as it was at an earlier time.
    FastOlder,
    /// The slow disk is as it was at an earlier time.
    SlowOlder,
    /// The fast disk is a cache of another slow disk.
    OtherSlow,
    /// The fast disk's layout does not suit the disks.
    Geometry,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blank => {
                "neither disk has a superblock of a tier; if both may be overwritten (the fast one wholly, \
                 the slow one at its end) give \"format\": true"
            }
            Self::FastUnknown => {
                "the slow disk is whole, but the fast one is not its cache; to make it that, which \
                 overwrites it, give \"format\": true"
            }
            Self::OtherCache => {
                "the slow disk belongs to another cache, which may have newer data; bring that one, or \
                 give \"force\": true to lose what is only there"
            }
            Self::FastOlder => {
                "the fast disk is an older copy of the slow disk's cache; bring the right one, or give \
                 \"force\": true to lose what is only there"
            }
            Self::SlowOlder => {
                "the slow disk is older than its cache knows it, perhaps a copy; bring the right one, or \
                 give \"force\": true to go on without what is in the cache"
            }
            Self::OtherSlow => {
                "the fast disk is the cache of another slow disk and may have data that are nowhere else; \
                 bring that one, or give \"force\": true to overwrite the fast disk"
            }
            Self::Geometry => {
                "the cache on the fast disk was made for disks of other sizes; bring those, or give \
                 \"force\": true to lose what is only there"
            }
        })
    }
}

/// Decides about a pair. `fits`: the geometry on the fast disk suits both disks. `format` allows to
/// overwrite what holds no data that are only there, `force` what does.
///
/// # Errors
/// The pair is not to be used.
pub fn bind(
    fast: Option<&FastSuper>,
    slow: Option<&SlowSuper>,
    fits: bool,
    format: bool,
    force: bool,
) -> Result<Binding, BindError> {
    let refused = match (fast, slow) {
        (Some(fast), Some(slow)) if fast.id == slow.id => {
            let next = slow.generation.checked_add(1);
            if fast.generation < slow.generation {
                BindError::FastOlder
            } else if fast.generation != slow.generation && Some(fast.generation) != next {
                BindError::SlowOlder
            } else if !fits {
                BindError::Geometry
            } else if let Some(generation) = fast.generation.checked_add(1) {
                return Ok(Binding::Load { generation, stale: slow.degraded });
            } else {
                BindError::SlowOlder
            }
        }
        (_, Some(slow)) if !slow.complete => BindError::OtherCache,
        (Some(_), _) => BindError::OtherSlow,
        (None, Some(_)) if format => return Ok(Binding::Format),
        (None, Some(_)) => BindError::FastUnknown,
        (None, None) if format => return Ok(Binding::Format),
        (None, None) => BindError::Blank,
    };
    if force && refused != BindError::Blank && refused != BindError::FastUnknown {
        return Ok(Binding::Format);
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry {
        block_size: 512,
        line_blocks: 8,
        sets: 3,
        slow_lines: 1000,
        records_at: 16,
        lines_at: 24,
    };

    fn fast(id: u8, generation: u64) -> FastSuper {
        FastSuper { id: [id; 16], generation, stamp: 9, geometry: GEOMETRY, clean: true }
    }

    fn slow(id: u8, generation: u64, complete: bool) -> SlowSuper {
        SlowSuper { id: [id; 16], generation, complete, degraded: false }
    }

    #[test]
    fn what_is_written_is_read() {
        let (fast, slow) = (fast(1, 5), slow(1, 5, true));
        assert_eq!(FastSuper::decode(&fast.encode()), Some(fast));
        assert_eq!(SlowSuper::decode(&slow.encode()), Some(slow));
        assert_eq!(FastSuper::decode(&fast.encode()[..60]), None);
        assert_eq!(SlowSuper::decode(&[]), None);
    }

    #[test]
    fn a_pair_that_belongs_together_is_loaded() {
        let load = |f, s: &SlowSuper| bind(Some(&fast(1, f)), Some(s), true, true, true);
        let expected = |generation, stale| Ok(Binding::Load { generation, stale });
        assert_eq!(load(5, &slow(1, 5, false)), expected(6, false));
        // It died between the two writes of a start.
        assert_eq!(load(6, &slow(1, 5, true)), expected(7, false));
        let degraded = SlowSuper { degraded: true, ..slow(1, 5, false) };
        assert_eq!(load(5, &degraded), expected(6, true));
    }

    #[test]
    fn all_others_need_a_word() {
        use BindError::*;
        let (ours, blank) = (Some(fast(1, 5)), None);
        let other = Some(fast(2, 5));
        let bound = Some(slow(1, 5, false));
        let whole = Some(slow(1, 5, true));
        let cases = [
            (blank, None, Blank, true, false),
            (blank, whole, FastUnknown, true, false),
            (blank, bound, OtherCache, false, true),
            (other, bound, OtherCache, false, true),
            (other, whole, OtherSlow, false, true),
            (ours, None, OtherSlow, false, true),
            (Some(fast(1, 4)), bound, FastOlder, false, true),
            (Some(fast(1, 7)), bound, SlowOlder, false, true),
            (Some(fast(1, u64::MAX)), bound, SlowOlder, false, true),
        ];
        for (fast, slow, error, format, force) in cases {
            let bind = |format, force| bind(fast.as_ref(), slow.as_ref(), true, format, force);
            assert_eq!(bind(false, false), Err(error));
            assert_eq!(bind(true, false).is_ok(), format, "{error:?}");
            assert_eq!(bind(false, true).is_ok(), force, "{error:?}");
        }
        assert_eq!(bind(ours.as_ref(), bound.as_ref(), false, true, false), Err(Geometry));
    }
}
