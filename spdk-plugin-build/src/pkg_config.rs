//! Runs the `pkg-config` program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::layout::{has_library, tree_root};

/// What pkg-config says about where SPDK lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) prefix: PathBuf,
    pub(crate) include: PathBuf,
    pub(crate) lib: PathBuf,
}

/// The environment variables that change what pkg-config answers.
pub(crate) const ENV: &[&str] =
    &["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR"];

/// Asks pkg-config for SPDK, if it is there and knows it.
pub(crate) fn locate() -> Option<Located> {
    let modules = ["spdk_event", "spdk_bdev"];
    let dirs = |what: &str, flag: &str| -> Option<Vec<PathBuf>> {
        let text = run(&[], &[what], &modules).ok()?;
        let words = crate::parse::split_words(&text);
        let dirs = words.iter().filter_map(|word| word.strip_prefix(flag).map(PathBuf::from));
        // Relocatable `.pc` files write `DIR/lib/pkgconfig/../../lib`.
        Some(dirs.map(|dir| dir.canonicalize().unwrap_or(dir)).collect())
    };
    // Where none fits, the first is kept: it names what is wrong with this SPDK.
    let pick = |dirs: Vec<PathBuf>, fits: &dyn Fn(&Path) -> bool| {
        let good = dirs.iter().find(|dir| fits(dir)).cloned();
        good.or_else(|| dirs.into_iter().next())
    };
    let include = dirs("--cflags-only-I", "-I")?;
    let include = pick(include, &|dir| dir.join("spdk/version.h").is_file())?;
    let lib = pick(dirs("--libs-only-L", "-L")?, &|dir| has_library(dir, "spdk_bdev"))?;
    let prefix = tree_root(include.parent()?.to_path_buf());
    Some(Located { prefix, include, lib })
}

/// One call of pkg-config, with `dirs` before the user's own search path.
///
/// System directories are asked for as well: the caller decides what to do with them.
pub(crate) fn run(dirs: &[PathBuf], flags: &[&str], modules: &[&str]) -> Result<String, String> {
    let program = std::env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let mut command = Command::new(&program);
    command.args(flags).args(modules);
    command.env("PKG_CONFIG_ALLOW_SYSTEM_CFLAGS", "1").env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1");
    if !dirs.is_empty() {
        command.env("PKG_CONFIG_PATH", search_path(dirs, std::env::var_os("PKG_CONFIG_PATH")));
    }
    let output = command.output().map_err(|error| {
        format!(
            "cannot run {}: {error} (type `apt install pkg-config`)",
            Path::new(&program).display()
        )
    })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    String::from_utf8(output.stdout).map_err(|_| "its answer is not UTF-8".to_owned())
}

fn search_path(dirs: &[PathBuf], user: Option<OsString>) -> OsString {
    let mut path = OsString::new();
    let user = user.filter(|p| !p.is_empty());
    for (i, part) in dirs.iter().map(|d| d.as_os_str()).chain(user.as_deref()).enumerate() {
        if i > 0 {
            path.push(":");
        }
        path.push(part);
    }
    path
}
