//! A plugin leaves SPDK's symbols to the program that loads it; and whether SPDK has a copy.

use spdk_plugin_build::Spdk;

fn main() {
    spdk_plugin_build::plugin();
    spdk_plugin_build::rerun(None);
    println!("cargo::rustc-check-cfg=cfg(has_copy)");
    // That there is no SPDK is for the build script of the bindings to say.
    if Spdk::find().is_ok_and(|spdk| spdk.version().at_least(23, 1)) {
        println!("cargo::rustc-cfg=has_copy");
    }
}
