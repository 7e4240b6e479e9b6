//! The crate that the README shows, built as it stands there and loaded into a stock `spdk_tgt`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spdk_plugin_rig::{Bdevperf, Build, Host, spdk};

const README: &str = include_str!("../../../README.md");

/// The code block that follows the first mention of `file`.
#[track_caller]
fn block(file: &str) -> &'static str {
    let mention = format!("`{file}`");
    let (_, rest) = README.split_once(&mention).unwrap_or_else(|| panic!("no {mention}"));
    let (_, rest) = rest.split_once("\n```").unwrap_or_else(|| panic!("no code for {mention}"));
    let (code, _) = rest.split_once("\n```").unwrap();
    code.split_once('\n').unwrap().1
}

/// Writes the crate where a rerun finds what it has built.
fn write_crate() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme");
    fs::create_dir_all(dir.join("src")).unwrap();
    let clone = format!("\"{}/", workspace.display());
    // The directory may lie in the workspace, which this crate is no part of.
    let manifest = block("Cargo.toml").replace("\"../spdk-plugin/", &clone) + "\n[workspace]\n";
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    fs::copy(workspace.join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    fs::write(dir.join("build.rs"), block("build.rs")).unwrap();
    fs::write(dir.join("src/lib.rs"), block("src/lib.rs")).unwrap();
    dir
}

#[test]
fn the_readmes_module_works() {
    let lines = block("src/lib.rs").lines().count();
    assert!(lines < 40, "the README's module has {lines} lines");

    let plugin = Build::package("my-disk").dir(write_crate()).cdylib(spdk()).unwrap();
    let target = Host::builder(spdk(), "spdk_tgt").plugin(&plugin).config(block("disk.json"));
    let mut host = target.start().unwrap();
    let bdevs: Value = host.call("bdev_get_bdevs", ()).unwrap();
    assert_eq!((&bdevs[0]["name"], &bdevs[0]["block_size"]), (&json!("Disk0"), &json!(4096)));
    let create = |params: Value| host.call::<Value>("bdev_disk_create", params);
    assert_eq!(create(json!({ "name": "Disk1", "num_blocks": 8 })).unwrap(), "Disk1");
    create(json!({ "name": "Disk2", "num_blocks": u64::MAX })).unwrap_err();
    host.shutdown().unwrap();

    let run = Bdevperf::new(spdk(), "verify").plugin(&plugin).config(block("disk.json"));
    run.io_size(65536).run().unwrap();
}
