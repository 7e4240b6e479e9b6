//! How fast the cipher is on one core: `cargo bench -p spdk-plugin-crypt-core`.

use std::hint::black_box;
use std::time::Instant;

use spdk_plugin_crypt_core::{Cipher, Key, Xts, is_hardware};

/// The best of some rounds, in GB/s.
fn speed(len: usize, mut work: impl FnMut()) -> f64 {
    let times = (64 << 20) / len;
    let round = || {
        let begin = Instant::now();
        (0..times).for_each(|_| work());
        (times * len) as f64 / begin.elapsed().as_secs_f64() / 1e9
    };
    (0..15)
        .map({
            let mut round = round;
            move |_| round()
        })
        .fold(0.0, f64::max)
}

fn main() {
    println!("AES instructions: {}", if is_hardware() { "yes" } else { "no" });
    println!("{:12} {:>6} {:>7}  encrypt  decrypt  GB/s", "", "block", "request");
    for cipher in [Cipher::Aes128, Cipher::Aes256] {
        let key: Vec<u8> = (0..cipher.key_len() as u8).collect();
        let key = Key::parse(cipher, &key, "the key").expect("a key");
        for (block, request) in [(512, 512), (512, 4096), (4096, 4096), (512, 65536), (4096, 65536)]
        {
            let xts = Xts::new(&key, block);
            let (from, mut to) = (vec![7; request], vec![0; request]);
            let encrypt = speed(request, || xts.encrypt(5, black_box(&from), black_box(&mut to)));
            let decrypt = speed(request, || xts.decrypt_in_place(5, black_box(&mut to)));
            println!("{cipher:12} {block:>6} {request:>7}  {encrypt:7.2}  {decrypt:7.2}");
        }
    }
}
