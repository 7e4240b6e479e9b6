//! Virtual bdevs that try out what the project's modules do not use together: parts of a base, bdevs that
//! are found by a superblock, and the steps of a module's life.

#![forbid(unsafe_code)]

mod found;
mod part;

spdk_plugin::spdk_plugin! { modules: [] }
