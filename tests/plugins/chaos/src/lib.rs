//! Bdev modules and RPC methods that panic, wait and fail where they are told to.

#![forbid(unsafe_code)]

mod disk;
mod methods;
mod mischief;
mod relay;
mod submit;

spdk_plugin::spdk_plugin! { modules: [] }
