//! `verify_bdev`, `fill_bdev`, `check_bdev` and `measure_bdev`: I/O to any bdev, from any program.

mod buffer;
mod disk;
mod measure;
mod pattern;
mod settings;
mod verify;
mod worker;

spdk_plugin::spdk_plugin! { modules: [] }
