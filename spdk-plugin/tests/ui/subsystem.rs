use spdk_plugin::{Subsystem, subsystem};

struct Unnamed;

#[subsystem(depends_on = ["bdev"])]
impl Subsystem for Unnamed {}

struct Generic<T>(T);

#[subsystem(name = "generic")]
impl<T: 'static> Subsystem for Generic<T> {}

struct NotAList;

#[subsystem(name = "not_a_list", depends_on = "bdev")]
impl Subsystem for NotAList {}

fn main() {}
