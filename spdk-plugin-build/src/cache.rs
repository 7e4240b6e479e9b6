//! Where `cargo spdk setup` keeps its copy of SPDK.

use std::ffi::OsString;
use std::path::PathBuf;

/// The SPDK release that `cargo spdk setup` builds.
pub const SETUP_VERSION: &str = "20.07";

/// Number of the recipe that `cargo spdk setup` follows; a change of recipe makes older copies
/// stale.
pub const SETUP_RECIPE: u32 = 1;

/// The project's cache directory: `$XDG_CACHE_HOME/spdk-plugin`, or `~/.cache/spdk-plugin`.
///
/// `None` if the user has no home directory.
pub fn cache_dir() -> Option<PathBuf> {
    cache_dir_from(std::env::var_os("XDG_CACHE_HOME"), std::env::home_dir())
}

/// Where the copy made by `cargo spdk setup` lies, or will lie: it exists under this name only once
/// it is finished.
pub fn setup_copy() -> Option<PathBuf> {
    Some(cache_dir()?.join(format!("spdk-{SETUP_VERSION}-{SETUP_RECIPE}")))
}

/// The XDG rules: a relative or empty `XDG_CACHE_HOME` counts as not set.
fn cache_dir_from(xdg: Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let base = xdg.map(PathBuf::from).filter(|p| p.is_absolute());
    let base = base.or_else(|| home.filter(|p| p.is_absolute()).map(|p| p.join(".cache")));
    Some(base?.join("spdk-plugin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_xdg() {
        let home = || Some(PathBuf::from("/home/ann"));
        let dir = |xdg: Option<&str>| cache_dir_from(xdg.map(Into::into), home());
        assert_eq!(dir(Some("/var/cache/ann")), Some("/var/cache/ann/spdk-plugin".into()));
        for unset in [None, Some(""), Some("relative")] {
            assert_eq!(dir(unset), Some("/home/ann/.cache/spdk-plugin".into()));
        }
        assert_eq!(cache_dir_from(None, None), None);
    }
}
