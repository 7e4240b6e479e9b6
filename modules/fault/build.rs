//! The unit tests are programs of their own and need SPDK; the library itself links nothing.

fn main() {
    spdk_plugin_build::app(&["event", "bdev"], spdk_plugin_build::Linkage::Auto);
}
