//! An `spdk_tgt` with the project's modules linked in.

use std::process::ExitCode;

spdk_plugin::spdk_plugin! { modules: [spdk_plugin_null, spdk_plugin_ram] }

fn main() -> ExitCode {
    spdk_plugin::runtime::app::run("spdk_plugin_test_app")
}
