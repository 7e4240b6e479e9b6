//! A set of legs.

use std::ops::{BitAnd, BitOr, Sub};

use crate::MAX_LEGS;

/// A set of legs, by the numbers of their slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Legs(pub u32);

impl Legs {
    /// No leg.
    pub const NONE: Self = Self(0);
    /// Every leg there can be.
    pub const ALL: Self = Self((1 << MAX_LEGS) - 1);

    /// The leg of one slot.
    #[inline]
    pub const fn one(slot: usize) -> Self {
        Self(1 << slot)
    }

    /// Whether a leg is in the set.
    #[inline]
    pub const fn has(self, slot: usize) -> bool {
        self.0 & (1 << slot) != 0
    }

    /// Whether there are none.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    #[inline]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The leg of the lowest slot.
    #[inline]
    pub const fn first(self) -> Option<usize> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() as usize) }
    }

    /// Adds a leg.
    #[inline]
    pub const fn add(&mut self, slot: usize) {
        self.0 |= 1 << slot;
    }

    /// Takes a leg out.
    #[inline]
    pub const fn remove(&mut self, slot: usize) {
        self.0 &= !(1 << slot);
    }

    /// Their slots, in order.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = usize> + Clone {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let slot = rest.trailing_zeros() as usize;
            (rest != 0).then(|| {
                rest &= rest - 1;
                slot
            })
        })
    }
}

impl BitOr for Legs {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Legs {
    type Output = Self;

    #[inline]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Sub for Legs {
    type Output = Self;

    #[inline]
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl FromIterator<usize> for Legs {
    fn from_iter<I: IntoIterator<Item = usize>>(slots: I) -> Self {
        slots.into_iter().fold(Self::NONE, |legs, slot| legs | Self::one(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        let legs: Legs = [0, 3, 7].into_iter().collect();
        assert_eq!(legs.iter().collect::<Vec<_>>(), [0, 3, 7]);
        assert_eq!((legs.len(), legs.first(), Legs::NONE.first()), (3, Some(0), None));
        assert!(legs.has(3) && !legs.has(4));
        assert_eq!((legs - Legs::one(0)).first(), Some(3));
        assert_eq!(Legs::ALL.iter().count(), MAX_LEGS);
    }
}
