use spdk_plugin::bdev::{Claim, Quiesced};

fn elsewhere(claim: Claim, held: Quiesced) {
    std::thread::spawn(move || drop(claim));
    std::thread::spawn(move || drop(held));
}

fn main() {}
