//! The app has all that `spdk_tgt` has.

use spdk_plugin_build::Linkage;

fn main() {
    spdk_plugin_build::app_all(Linkage::Auto);
}
