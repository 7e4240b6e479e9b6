use spdk_plugin::Subsystem;

struct Settings;

impl Subsystem for Settings {}

fn main() {}
