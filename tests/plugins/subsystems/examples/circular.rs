//! Subsystems that wait for one another.

use spdk_plugin::{Subsystem, subsystem};

spdk_plugin::spdk_plugin! { modules: [] }

struct Egg;

#[subsystem(name = "egg", depends_on = ["bdev", "hen"])]
impl Subsystem for Egg {}

struct Hen;

#[subsystem(name = "hen", depends_on = ["chick"])]
impl Subsystem for Hen {}

struct Chick;

#[subsystem(name = "chick", depends_on = ["egg"])]
impl Subsystem for Chick {}
