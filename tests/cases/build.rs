//! The program has the bdev modules that its cases use.

use spdk_plugin_build::{Linkage, Spdk};

const LIBRARIES: &[&str] = &[
    "event_bdev",
    "event_nvmf",
    "bdev_aio",
    "bdev_delay",
    "bdev_error",
    "bdev_lvol",
    "bdev_malloc",
    "bdev_null",
    "bdev_nvme",
    "bdev_passthru",
    "bdev_zone_block",
];

fn main() {
    println!("cargo::rerun-if-changed=src/media.c");
    let spdk = Spdk::find().unwrap_or_else(|error| panic!("{error}"));
    let mut media = cc::Build::new();
    media.file("src/media.c").std("gnu11");
    for dir in spdk.include_dirs() {
        media.flag("-isystem").flag(dir);
    }
    media.compile("case_media");
    spdk_plugin_build::app(LIBRARIES, Linkage::Shared);
}
