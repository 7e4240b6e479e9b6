//! Build-script helper: finds SPDK and links a plugin or an app with it.
//!
//! The artefact that is linked last decides how SPDK reaches it, so the call stands in *its* build
//! script:
//!
//! ```no_run
//! // build.rs of a cdylib that a stock spdk_tgt loads
//! spdk_plugin_build::plugin();
//! ```
//! ```no_run
//! // build.rs of a program of one's own
//! use spdk_plugin_build::{Linkage, app};
//! app(&["event_bdev", "bdev_malloc"], Linkage::Auto);
//! ```
//!
//! [`Spdk::find`] looks in this order: the directory named by `SPDK_DIR`, `pkg-config` (through
//! `PKG_CONFIG_PATH`), the copy that `cargo spdk setup` made.

mod cache;
mod error;
mod layout;
mod link;
mod parse;
mod pkg_config;
mod script;
mod spdk;
mod version;

pub use cache::{SETUP_RECIPE, SETUP_VERSION, cache_dir, setup_copy};
pub use error::{FindError, LinkError};
pub use link::Linkage;
pub use parse::{Directive, Mode, ParseOptions, link_args, parse};
pub use script::{app, app_all, fail, plugin, rerun};
pub use spdk::{Source, Spdk};
pub use version::Version;
