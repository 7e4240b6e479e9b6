//! A plugin in a program with another SPDK than it was built against.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use spdk_plugin_tests::{Build, Host, Spdk, modules, spdk};

const PACKAGE: &str = "spdk-plugin-modules";

/// Loads the plugin into a target that must refuse it, and checks that the target lives without.
fn refused(spdk: &Spdk, plugin: &Path, texts: &[&str]) {
    let mut host = Host::builder(spdk, "spdk_tgt").plugin(plugin).start().unwrap();
    let log = host.log();
    let line = log.lines().find(|line| line.contains("is not loaded"));
    let line = line.unwrap_or_else(|| panic!("the log does not say that it refused:\n{log}"));
    for text in texts {
        assert!(line.contains(text), "'{text}' is missing in: {line}");
    }
    let methods: Vec<String> = host.call("rpc_get_methods", ()).unwrap();
    assert!(!methods.iter().any(|method| method.starts_with("bdev_ram")), "{methods:?}");
    let malloc = json!({ "num_blocks": 2048, "block_size": 512 });
    let _: Value = host.call("bdev_malloc_create", malloc).unwrap();
    host.shutdown().unwrap();
}

/// A copy of the plugin whose record tells of another build.
fn forged(dir: &Path) -> PathBuf {
    let mut bytes = std::fs::read(modules()).unwrap();
    let soname = spdk().soname("spdk_bdev").unwrap();
    let major = soname.find(".so.").unwrap() + 4;
    let mut other = soname.clone().into_bytes();
    other[major] = if other[major] == b'9' { b'8' } else { b'9' };
    let at: Vec<usize> = (0..bytes.len() - soname.len())
        .filter(|at| bytes[*at..].starts_with(soname.as_bytes()))
        .collect();
    assert!(!at.is_empty(), "the plugin does not tell of {soname}");
    for at in at {
        bytes[at..at + other.len()].copy_from_slice(&other);
    }
    let path = dir.join("libforged.so");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn another_build_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let version = spdk().version().to_string();
    let soname = spdk().soname("spdk_bdev").unwrap();
    refused(spdk(), &forged(dir.path()), &[PACKAGE, &version, &soname, "SPDK_DIR"]);
}

/// With a second SPDK at hand, the plugin of each is loaded into the other's target.
#[test]
fn a_plugin_of_another_release_is_refused_by_name() {
    let Some(dir) = std::env::var_os("SPDK_PLUGIN_OTHER_SPDK") else {
        return eprintln!("SPDK_PLUGIN_OTHER_SPDK names no second SPDK: see the test before");
    };
    let other = Spdk::at(Path::new(&dir)).unwrap();
    let plugin = Build::package(PACKAGE).release().cdylib(&other).unwrap();
    let (ours, theirs) = (spdk().version().to_string(), other.version().to_string());
    let short = |version: &str| version.split('-').next().unwrap().to_owned();
    refused(spdk(), &plugin, &[PACKAGE, &short(&ours), &short(&theirs)]);
}

/// The loader resolves strong symbols before any constructor runs: one that the program lacks would end
/// it with a message of the loader's. So all that not every release has is weak.
#[test]
fn every_release_has_what_a_plugin_needs() {
    let common = include_str!("data/common-symbols.txt");
    let common: Vec<&str> = common.lines().collect();
    let output = Command::new("nm").args(["-D", "--undefined-only"]).arg(modules()).output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let strong: Vec<&str> = output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("U "))
        .filter(|name| name.starts_with("spdk_"))
        .collect();
    assert!(strong.len() > 20, "{output}");
    for name in strong {
        assert!(
            common.contains(&name),
            "{name} is not in 20.07 and 26.09: make it weak in the shim"
        );
    }
}
