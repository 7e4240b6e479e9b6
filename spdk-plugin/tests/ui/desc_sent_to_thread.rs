use spdk_plugin::BdevDesc;

fn elsewhere(desc: BdevDesc) {
    std::thread::spawn(move || drop(desc));
}

fn main() {}
