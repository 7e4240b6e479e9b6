//! A plugin leaves SPDK's symbols to the program that loads it.

fn main() {
    spdk_plugin_build::plugin();
}
