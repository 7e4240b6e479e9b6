//! Tweaks: elements of GF(2^128) with the polynomial x^128 + x^7 + x^2 + x + 1, the first byte lowest.
//! Neither version takes a branch or a table by their value.

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use portable::Tweak;
#[cfg(target_arch = "x86_64")]
pub(crate) use sse2::Tweak;

/// An AES block.
pub(crate) type Block = [u8; 16];

/// In general registers.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    use super::Block;

    #[derive(Clone, Copy)]
    pub(crate) struct Tweak(u128);

    impl Tweak {
        #[inline(always)]
        pub(crate) fn new(bytes: Block) -> Self {
            Self(u128::from_le_bytes(bytes))
        }

        #[inline(always)]
        pub(crate) fn bytes(self) -> Block {
            self.0.to_le_bytes()
        }

        #[inline(always)]
        pub(crate) fn xor(self, block: &Block) -> Block {
            (self.0 ^ u128::from_le_bytes(*block)).to_le_bytes()
        }

        /// Times x.
        #[inline(always)]
        pub(crate) fn doubled(self) -> Self {
            Self((self.0 << 1) ^ ((self.0 >> 127) * 0x87))
        }

        /// Times x^8.
        #[inline(always)]
        pub(crate) fn times_x8(self) -> Self {
            let out = self.0 >> 120;
            Self((self.0 << 8) ^ out ^ (out << 1) ^ (out << 2) ^ (out << 7))
        }
    }
}

/// In a vector register, where the data is, too. Every x86-64 has these instructions.
#[cfg(target_arch = "x86_64")]
mod sse2 {
    use safe_arch::{
        add_i64_m128i, bitand_m128i, bitxor_m128i, byte_shl_imm_u128_m128i,
        byte_shr_imm_u128_m128i, m128i, set_i32_m128i, shl_imm_u64_m128i, shr_imm_i32_m128i,
        shuffle_ai_f32_all_m128i,
    };

    use super::Block;

    #[derive(Clone, Copy)]
    pub(crate) struct Tweak(m128i);

    impl Tweak {
        #[inline(always)]
        pub(crate) fn new(bytes: Block) -> Self {
            Self(bytemuck::cast(bytes))
        }

        #[inline(always)]
        pub(crate) fn bytes(self) -> Block {
            bytemuck::cast(self.0)
        }

        #[inline(always)]
        pub(crate) fn xor(self, block: &Block) -> Block {
            bytemuck::cast(bitxor_m128i(self.0, bytemuck::cast(*block)))
        }

        /// Times x: each half is doubled, and gets what falls out of the other.
        #[inline(always)]
        pub(crate) fn doubled(self) -> Self {
            let out = shr_imm_i32_m128i::<31>(shuffle_ai_f32_all_m128i::<0b00_01_00_11>(self.0));
            let out = bitand_m128i(out, set_i32_m128i(0, 1, 0, 0x87));
            Self(bitxor_m128i(add_i64_m128i(self.0, self.0), out))
        }

        /// Times x^8: the last byte falls out, and comes in below as the polynomial says.
        #[inline(always)]
        pub(crate) fn times_x8(self) -> Self {
            let out = byte_shr_imm_u128_m128i::<15>(self.0);
            let (a, b) =
                (bitxor_m128i(out, shl_imm_u64_m128i::<1>(out)), shl_imm_u64_m128i::<2>(out));
            let (c, moved) = (shl_imm_u64_m128i::<7>(out), byte_shl_imm_u128_m128i::<1>(self.0));
            Self(bitxor_m128i(bitxor_m128i(a, b), bitxor_m128i(c, moved)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Tweak, portable};

    #[test]
    fn both_versions_agree() {
        let mut bits = 1u128;
        for _ in 0..10_000 {
            // Any full-period generator will do.
            bits =
                bits.wrapping_mul(0xda94_2042_e4dd_58b5_0000_0000_0000_0001).wrapping_add(0x9e37);
            for value in [bits, bits | 1 << 127, bits & !(1 << 127), 1 << 127, u128::MAX, 0] {
                let (a, b) =
                    (Tweak::new(value.to_le_bytes()), portable::Tweak::new(value.to_le_bytes()));
                assert_eq!(a.bytes(), b.bytes());
                assert_eq!(a.doubled().bytes(), b.doubled().bytes());
                assert_eq!(a.times_x8().bytes(), b.times_x8().bytes());
                assert_eq!(a.xor(&[7; 16]), b.xor(&[7; 16]));
                let eight = (0..8).fold(b, |tweak, _| tweak.doubled());
                assert_eq!(eight.bytes(), b.times_x8().bytes());
            }
        }
    }
}
