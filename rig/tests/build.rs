//! Builds of plugins and apps.

use std::fs;
use std::process::Command;

use spdk_plugin_rig::{Build, Error, spdk};

#[test]
fn artefacts_are_built_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = "[package]\nname = \"rig-probe\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
        [lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n[workspace]\n";
    let main = "fn main() { println!(\"{}\", env!(\"SPDK_DIR\")) }";
    fs::write(dir.path().join("Cargo.toml"), manifest).unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    fs::write(dir.path().join("src/lib.rs"), "").unwrap();
    fs::write(dir.path().join("src/main.rs"), main).unwrap();
    let build = Build::package("rig-probe").dir(dir.path());

    let library = build.cdylib(spdk()).unwrap();
    assert_eq!(library.file_name().unwrap(), "librig_probe.so");
    let versioned = format!("spdk-{}", spdk().version());
    assert!(library.iter().any(|part| part == versioned.as_str()), "{}", library.display());
    assert_eq!(build.cdylib(spdk()).unwrap(), library);

    let program = build.env("SPDK_DIR", "/some/spdk").bin(spdk(), "rig-probe").unwrap();
    let output = Command::new(program).output().unwrap();
    assert_eq!(output.stdout, b"/some/spdk\n");
    fs::write(dir.path().join("src/lib.rs"), "no rust").unwrap();
    let error = Build::package("rig-probe").dir(dir.path()).release().cdylib(spdk()).unwrap_err();
    assert!(matches!(&error, Error::Tool { output, .. } if output.contains("no rust")), "{error}");
}
