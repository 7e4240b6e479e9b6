//! An `spdk_tgt` with the project's modules linked in.

use spdk_plugin::{Result, SpdkApp};

spdk_plugin::spdk_plugin! { modules: [spdk_plugin_null, spdk_plugin_ram] }

fn main() -> Result<()> {
    SpdkApp::builder().name("spdk_plugin_test_app").args(std::env::args_os()).run(|| ())
}
