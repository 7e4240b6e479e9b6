//! What a build script says to cargo.

use std::fmt::Display;

use crate::link::Linkage;
use crate::pkg_config;
use crate::spdk::Spdk;

/// Links the package's cdylib as a plugin of a stock SPDK program; call it from the build script.
///
/// A plugin has no SPDK of its own: it leaves every `spdk_*` symbol to the program that loads it.
/// It is never unloaded, as the program keeps pointers into it.
pub fn plugin() {
    // Nothing found on this machine matters here; saying so spares a run at every change of a file.
    println!("cargo::rerun-if-env-changed=SPDK_DIR");
    println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
}

/// Links the package's programs with the named SPDK libraries and all they depend on; call it from
/// the build script.
///
/// Names are those of SPDK's libraries without `libspdk_`: `event_bdev`, `bdev_malloc`,
/// `event_nvmf`. A library that registers a subsystem brings those it depends on. In a package that
/// also makes a cdylib, programs alone are linked with SPDK, not its tests and examples: a plugin
/// must not contain SPDK.
pub fn app(libs: &[&str], linkage: Linkage) {
    let spdk = find();
    emit(spdk.link_args(libs, linkage));
}

/// Links the package's programs with everything that `spdk_tgt` has; call it from the build script.
pub fn app_all(linkage: Linkage) {
    let spdk = find();
    emit(spdk.link_args_all(linkage));
}

/// Tells cargo to run the build script again when another SPDK would be found, or `spdk` changed.
pub fn rerun(spdk: Option<&Spdk>) {
    let env = ["SPDK_DIR", "SPDK_PLUGIN_LINK", "XDG_CACHE_HOME", "HOME"];
    for name in env.iter().chain(pkg_config::ENV) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Some(spdk) = spdk {
        println!("cargo::rerun-if-changed={}", spdk.include_dirs()[0].join("spdk").display());
        // Not the directories: cargo would look at every file in them, and one may be /usr/lib.
        let names = ["libspdk_bdev.so", "libspdk_bdev.a", "pkgconfig/spdk_bdev.pc"];
        let files = spdk.lib_dirs().iter().flat_map(|dir| names.map(|name| dir.join(name)));
        for file in files.filter(|file| file.exists()) {
            println!("cargo::rerun-if-changed={}", file.display());
        }
    }
}

/// Ends the build script with `error` as cargo's one error line.
pub fn fail(error: impl Display) -> ! {
    println!("cargo::error={error}");
    // That line alone fails the build; another exit code would make cargo print the script's whole
    // output as well.
    std::process::exit(0)
}

fn find() -> Spdk {
    let found = Spdk::find();
    rerun(found.as_ref().ok());
    found.unwrap_or_else(|error| fail(error))
}

fn emit(args: Result<Vec<String>, impl Display>) {
    let args = args.unwrap_or_else(|error| fail(error));
    let target = if makes_cdylib() { "rustc-link-arg-bins" } else { "rustc-link-arg" };
    for arg in args {
        println!("cargo::{target}={arg}");
    }
}

/// Cargo does not tell a build script what its package makes.
fn makes_cdylib() -> bool {
    let dir = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let manifest = std::fs::read_to_string(std::path::Path::new(&dir).join("Cargo.toml"));
    manifest.unwrap_or_default().lines().any(|line| {
        let line = line.trim_start();
        !line.starts_with('#') && line.contains("\"cdylib\"")
    })
}
