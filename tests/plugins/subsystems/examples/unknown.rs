//! A subsystem that depends on one that nobody has.

spdk_plugin::spdk_plugin! { modules: [] }

struct Lonely;

#[spdk_plugin::subsystem(name = "lonely", depends_on = ["bdev", "no_such_subsystem"])]
impl spdk_plugin::Subsystem for Lonely {}
