//! Raw bindings to SPDK and to the C shim of spdk-plugin.
//!
//! They are made from the headers of the SPDK that `spdk-plugin-build` finds, so their layout is
//! that of one version; the `spdkp_*` functions of the shim keep one signature across versions.
//! Nothing here links SPDK: a plugin leaves its symbols to the program that loads it, an app asks
//! `spdk-plugin-build` for them in its own build script.

#![no_std]

#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::missing_safety_doc,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    reason = "bindgen writes it, under the names of C"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}
mod built {
    include!(concat!(env!("OUT_DIR"), "/built.rs"));
}

pub use bindings::*;
pub use built::*;
