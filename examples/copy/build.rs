//! Links SPDK and the bdev modules that the program uses.

use spdk_plugin_build::{Linkage, app};

fn main() {
    app(&["event_bdev", "bdev_aio", "bdev_malloc", "bdev_null"], Linkage::Auto);
}
