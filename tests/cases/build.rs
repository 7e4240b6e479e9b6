//! The program has the bdev modules that its cases use.

use spdk_plugin_build::Linkage;

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
    spdk_plugin_build::app(LIBRARIES, Linkage::Shared);
}
