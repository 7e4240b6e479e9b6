use aes::cipher::KeyInit;
use aes::cipher::array::Array;
use aes::{Aes128, Aes256};

use super::{Copied, InPlace, Xts, blocks, blocks_mut};
use crate::key::{Cipher, Key};

fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
    let digits: Vec<u8> = text.bytes().filter(|c| !c.is_ascii_whitespace()).map(digit).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A published vector: the key, the tweak as a number, the plaintext and the ciphertext.
struct Vector<'a> {
    cipher: Cipher,
    key: &'a str,
    tweak: &'a str,
    plain: Vec<u8>,
    encrypted: &'a str,
}

impl Vector<'_> {
    #[track_caller]
    fn holds(&self) {
        let (plain, encrypted) = (&self.plain, unhex(self.encrypted));
        let xts = Xts::new(&Key::parse(self.cipher, &unhex(self.key), "").unwrap(), plain.len());
        let tweak = u128::from_le_bytes(unhex(self.tweak).try_into().unwrap());

        let mut copy = vec![0; plain.len()];
        xts.encrypt_from(tweak, Copied { from: blocks(plain), to: blocks_mut(&mut copy) });
        assert_eq!(copy, encrypted);
        let mut data = plain.clone();
        xts.encrypt_from(tweak, InPlace(blocks_mut(&mut data)));
        assert_eq!(data, encrypted);
        xts.decrypt_from(tweak, InPlace(blocks_mut(&mut data)));
        assert_eq!(&data, plain);
    }
}

/// The plaintext of the vectors of 512 bytes.
fn counting() -> Vec<u8> {
    (0..512).map(|i| i as u8).collect()
}

/// IEEE 1619-2007, annex B. Its first vector has equal halves.
#[test]
fn vectors_of_ieee_1619() {
    let number = "33333333330000000000000000000000";
    Vector {
        cipher: Cipher::Aes128,
        key: "1111111111111111111111111111111122222222222222222222222222222222",
        tweak: number,
        plain: vec![0x44; 32],
        encrypted: "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0",
    }
    .holds();
    Vector {
        cipher: Cipher::Aes128,
        key: "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f022222222222222222222222222222222",
        tweak: number,
        plain: vec![0x44; 32],
        encrypted: "af85336b597afc1a900b2eb21ec949d292df4c047e0b21532186a5971a227a89",
    }
    .holds();
    Vector {
        cipher: Cipher::Aes128,
        key: "2718281828459045235360287471352631415926535897932384626433832795",
        tweak: "00000000000000000000000000000000",
        plain: counting(),
        encrypted: "
            27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c
            c78cf7f5e543445f8333d8fa7f56000005279fa5d8b5e4ad40e736ddb4d35412
            328063fd2aab53e5ea1e0a9f332500a5df9487d07a5c92cc512c8866c7e860ce
            93fdf166a24912b422976146ae20ce846bb7dc9ba94a767aaef20c0d61ad0265
            5ea92dc4c4e41a8952c651d33174be51a10c421110e6d81588ede82103a252d8
            a750e8768defffed9122810aaeb99f9172af82b604dc4b8e51bcb08235a6f434
            1332e4ca60482a4ba1a03b3e65008fc5da76b70bf1690db4eae29c5f1badd03c
            5ccf2a55d705ddcd86d449511ceb7ec30bf12b1fa35b913f9f747a8afd1b130e
            94bff94effd01a91735ca1726acd0b197c4e5b03393697e126826fb6bbde8ecc
            1e08298516e2c9ed03ff3c1b7860f6de76d4cecd94c8119855ef5297ca67e9f3
            e7ff72b1e99785ca0a7e7720c5b36dc6d72cac9574c8cbbc2f801e23e56fd344
            b07f22154beba0f08ce8891e643ed995c94d9a69c9f1b5f499027a78572aeebd
            74d20cc39881c213ee770b1010e4bea718846977ae119f7a023ab58cca0ad752
            afe656bb3c17256a9f6e9bf19fdd5a38fc82bbe872c5539edb609ef4f79c203e
            bb140f2e583cb2ad15b4aa5b655016a8449277dbd477ef2c8d6c017db738b18d
            eb4a427d1923ce3ff262735779a418f20a282df920147beabe421ee5319d0568",
    }
    .holds();
    Vector {
        cipher: Cipher::Aes256,
        key: "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383
              279502884197169399375105820974944592",
        tweak: "ff000000000000000000000000000000",
        plain: counting(),
        encrypted: "
            1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b
            5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd
            5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0
            c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca
            2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0
            b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f
            93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec
            583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a
            84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1
            505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae
            9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29
            a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac
            6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f
            645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385
            1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa
            773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151",
    }
    .holds();
}

/// NIST's XTS validation (CAVP), the files XTSGenAES128 and XTSGenAES256 with tweaks of 128 bits.
#[test]
fn vectors_of_nist_cavp() {
    Vector {
        cipher: Cipher::Aes128,
        key: "a1b90cba3f06ac353b2c343876081762090923026e91771815f29dab01932f2f",
        tweak: "4faef7117cda59c66e4b92013e768ad5",
        plain: unhex("ebabce95b14d3c8d6fb350390790311c"),
        encrypted: "778ae8b43cb98d5a825081d5be471c63",
    }
    .holds();
    Vector {
        cipher: Cipher::Aes256,
        key: "1ea661c58d943a0e4801e42f4b0947149e7f9f8e3e68d0c7505210bd311a0e7c
              d6e13ffdf2418d8d1911c004cda58da3d619b7e2b9141e58318eea392cf41b08",
        tweak: "adf8d92627464ad2f0428e84a9f87564",
        plain: unhex("2eedea52cd8215e1acc647e810bbc3642e87287f8d2e57e36c0a24fbc12a202e"),
        encrypted: "cbaad0e2f6cea3f50b37f934d46a9b130b9d54f07e34f36af793e86f73c6d7db",
    }
    .holds();
}

/// The crate `xts-mode` takes the blocks one after another.
#[test]
fn another_implementation_agrees() {
    let mut seed = std::process::id() as u64 | 1;
    println!("seed {seed}");
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..200 {
        let block_size = match round % 4 {
            0 => 16 * (1 + random() as usize % 100),
            1 => 512,
            2 => 4096,
            _ => 512 * (1 + random() as usize % 17),
        };
        let count = 1 + random() as usize % (40_000 / block_size);
        let first = [0, 1, u64::from(u32::MAX) - 3, u64::MAX - 3, random()][round % 5];
        let bytes = |random: &mut dyn FnMut() -> u64, len| -> Vec<u8> {
            (0..len).map(|_| random() as u8).collect()
        };
        let plain = bytes(&mut random, count * block_size);
        let cipher = if round % 2 == 0 { Cipher::Aes128 } else { Cipher::Aes256 };
        let key = bytes(&mut random, cipher.key_len());

        let xts = Xts::new(&Key::parse(cipher, &key, "").unwrap(), block_size);
        let (mut copy, mut in_place) = (vec![0; plain.len()], plain.clone());
        xts.encrypt(first, &plain, &mut copy);
        xts.encrypt_in_place(first, &mut in_place);

        let mut expected = plain.clone();
        let (data, tweak) = key.split_at(key.len() / 2);
        let number = |number: u128| Array(number.to_le_bytes());
        match cipher {
            Cipher::Aes128 => {
                let new = |key| Aes128::new_from_slice(key).unwrap();
                let xts = xts_mode::Xts128::new(new(data), new(tweak));
                xts.encrypt_area(&mut expected, block_size, first.into(), number);
            }
            Cipher::Aes256 => {
                let new = |key| Aes256::new_from_slice(key).unwrap();
                let xts = xts_mode::Xts128::new(new(data), new(tweak));
                xts.encrypt_area(&mut expected, block_size, first.into(), number);
            }
        }
        assert!(copy == expected, "{cipher}: {count} blocks of {block_size} bytes from {first} on");
        assert!(
            in_place == expected,
            "{cipher}: {count} blocks of {block_size} bytes from {first}"
        );
        xts.decrypt_in_place(first, &mut in_place);
        assert!(
            in_place == plain,
            "{cipher}: {count} blocks of {block_size} bytes from {first} on"
        );
    }
}

#[test]
fn nothing_shows_a_key() {
    let key: Vec<u8> = (0..64).collect();
    let xts = Xts::new(&Key::parse(Cipher::Aes256, &key, "").unwrap(), 4096);
    assert_eq!(format!("{xts:?}"), "Xts(AES-XTS-256, blocks of 4096 bytes)");
}

#[test]
#[should_panic(expected = "part of a block")]
fn part_of_a_block_is_refused() {
    let key: Vec<u8> = (0..64).collect();
    let xts = Xts::new(&Key::parse(Cipher::Aes256, &key, "").unwrap(), 512);
    xts.encrypt_in_place(0, &mut [0; 256]);
}
