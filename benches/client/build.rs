//! SPDK's shared libraries, which bdevperf runs on too.

use spdk_plugin_build::{Linkage, app};

fn main() {
    app(&["event_bdev", "bdev_null"], Linkage::Shared);
}
