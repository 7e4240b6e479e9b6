//! Every bdev module of the project as one plugin for a stock SPDK program.

spdk_plugin::spdk_plugin! {
    modules: [
        spdk_plugin_crypt,
        spdk_plugin_delay,
        spdk_plugin_fault,
        spdk_plugin_integrity,
        spdk_plugin_mirror,
        spdk_plugin_null,
        spdk_plugin_passthru,
        spdk_plugin_ram,
        spdk_plugin_tier,
    ]
}
