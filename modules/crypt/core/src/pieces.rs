//! Data that lie in several buffers of any length, as those of a request do.

use std::ops::Range;

use crate::xts::Xts;

/// The buffers of a request, in order.
pub trait Pieces {
    /// Calls `each` with each buffer and where in the request it begins.
    fn for_each(&mut self, each: &mut dyn FnMut(usize, &mut [u8]));
}

/// Decrypts the disk blocks that lie in `pieces`, of which the first one has the number `first`. `scratch`
/// has the size of a block, for those that lie in more than one piece.
pub fn decrypt(xts: &Xts, first: u64, pieces: &mut impl Pieces, scratch: &mut [u8]) {
    let size = xts.block_size();
    // The blocks that begin in one piece and end in another, as far as was seen.
    let mut split = None;
    pieces.for_each(&mut |at, piece| {
        let head = (at.next_multiple_of(size) - at).min(piece.len());
        let whole = (piece.len() - head) / size * size;
        if whole > 0 {
            let block = first + ((at + head) / size) as u64;
            xts.decrypt_in_place(block, &mut piece[head..head + whole]);
        }
        if split.is_none() && (head > 0 || head + whole < piece.len()) {
            split = Some((if head > 0 { at } else { at + whole }) / size);
        }
    });
    while let Some(block) = split {
        let range = block * size..(block + 1) * size;
        pieces.for_each(&mut |at, piece| {
            if let Some((of_piece, of_range)) = overlap(at, piece.len(), &range) {
                scratch[of_range].copy_from_slice(&piece[of_piece]);
            }
        });
        xts.decrypt_in_place(first + block as u64, scratch);
        split = None;
        pieces.for_each(&mut |at, piece| {
            if let Some((of_piece, of_range)) = overlap(at, piece.len(), &range) {
                piece[of_piece].copy_from_slice(&scratch[of_range]);
            }
            // A piece that begins within a later block.
            if split.is_none() && at >= range.end && !at.is_multiple_of(size) {
                split = Some(at / size);
            }
        });
    }
}

/// Encrypts the disk blocks in the bytes `range` of a request's `pieces` into `to`. The request's first block
/// has the number `first`. Each byte is read once.
pub fn encrypt<'a>(
    xts: &Xts,
    first: u64,
    pieces: impl Iterator<Item = (usize, &'a [u8])>,
    range: Range<usize>,
    to: &mut [u8],
) {
    let size = xts.block_size();
    let number = |at: usize| first + ((range.start + at) / size) as u64;
    for (at, piece) in pieces {
        let Some((of_piece, of_range)) = overlap(at, piece.len(), &range) else { continue };
        let (mut from, mut at) = (&piece[of_piece], of_range.start);
        let head = (at.next_multiple_of(size) - at).min(from.len());
        if head > 0 {
            // It goes on with a block that an earlier piece has begun.
            to[at..at + head].copy_from_slice(&from[..head]);
            (from, at) = (&from[head..], at + head);
            if at.is_multiple_of(size) {
                xts.encrypt_in_place(number(at - size), &mut to[at - size..at]);
            }
        }
        let whole = from.len() / size * size;
        xts.encrypt(number(at), &from[..whole], &mut to[at..at + whole]);
        let (rest, at) = (&from[whole..], at + whole);
        to[at..at + rest.len()].copy_from_slice(rest);
    }
}

/// Whether the bytes `range` of a request's `pieces` are those in `with`.
pub fn equals<'a>(
    mut pieces: impl Iterator<Item = (usize, &'a [u8])>,
    range: Range<usize>,
    with: &[u8],
) -> bool {
    pieces.all(|(at, piece)| match overlap(at, piece.len(), &range) {
        Some((of_piece, of_range)) => piece[of_piece] == with[of_range],
        None => true,
    })
}

/// What a piece of `len` bytes from `at` on has of `range`: within the piece, and within the range.
fn overlap(at: usize, len: usize, range: &Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    let (start, end) = (at.max(range.start), (at + len).min(range.end));
    (start < end).then(|| (start - at..end - at, start - range.start..end - range.start))
}

#[cfg(test)]
mod tests {
    use super::{Pieces, decrypt, encrypt, equals};
    use crate::{Cipher, Key, Xts};

    struct Bufs(Vec<Vec<u8>>);

    impl Pieces for Bufs {
        fn for_each(&mut self, each: &mut dyn FnMut(usize, &mut [u8])) {
            let mut at = 0;
            for buf in &mut self.0 {
                each(at, buf);
                at += buf.len();
            }
        }
    }

    impl Bufs {
        fn iter(&self) -> impl Iterator<Item = (usize, &[u8])> {
            self.0.iter().scan(0, |at, buf| {
                *at += buf.len();
                Some((*at - buf.len(), &**buf))
            })
        }
    }

    #[test]
    fn pieces_are_as_one() {
        let mut seed = u64::from(std::process::id()) | 1;
        println!("seed {seed}");
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        let key: Vec<u8> = (0..64).collect();
        for round in 0..2000 {
            let size = [32, 64, 512][round % 3];
            let xts = Xts::new(&Key::parse(Cipher::Aes256, &key, "").unwrap(), size);
            let len = size * (1 + random(12));
            let first = random(1 << 40) as u64;
            let plain: Vec<u8> = (0..len).map(|_| random(256) as u8).collect();
            let mut encrypted = plain.clone();
            xts.encrypt_in_place(first, &mut encrypted);

            let longest = [3, size, 3 * size][random(3)];
            let cut = |data: &[u8], random: &mut dyn FnMut(usize) -> usize| {
                let (mut rest, mut bufs) = (data, Vec::new());
                while !rest.is_empty() {
                    let (head, tail) = rest.split_at((1 + random(longest)).min(rest.len()));
                    bufs.push(head.to_vec());
                    rest = tail;
                }
                Bufs(bufs)
            };
            let mut bufs = cut(&encrypted, &mut random);
            decrypt(&xts, first, &mut bufs, &mut vec![0; size]);
            assert!(bufs.0.concat() == plain, "round {round}");

            let bufs = cut(&plain, &mut random);
            let (from, to) = (random(len / size), 1 + random(len / size));
            let range = from.min(to) * size..from.max(to) * size;
            let mut out = vec![0; range.len()];
            encrypt(&xts, first, bufs.iter(), range.clone(), &mut out);
            assert!(out == encrypted[range.clone()], "round {round}");

            let mut with = plain[range.clone()].to_vec();
            assert!(equals(bufs.iter(), range.clone(), &with));
            if let Some(byte) = with.last_mut() {
                *byte ^= 1;
                assert!(!equals(bufs.iter(), range, &with));
            }
        }
    }
}
