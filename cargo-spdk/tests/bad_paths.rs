//! What a person reads when a machine lacks something: one sentence, exit code 1, no panic.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A machine with a cache directory and a `PATH` of its own.
struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Machine { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.dir.path().join("bin")).unwrap();
        machine
    }

    /// Links the programs that are really there.
    fn with(self, programs: &[&str]) -> Self {
        for name in programs {
            let path = std::env::var_os("PATH").unwrap();
            let real =
                std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
            if let Some(real) = real {
                std::os::unix::fs::symlink(real, self.dir.path().join("bin").join(name)).unwrap();
            }
        }
        self
    }

    /// Adds a program that is a shell script.
    fn script(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_with_cache(args, &self.dir.path().join("cache"))
    }

    fn run_with_cache(&self, args: &[&str], cache: &Path) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-spdk"));
        command.args(args).env_clear().env("PATH", self.dir.path().join("bin"));
        command.env("XDG_CACHE_HOME", cache).output().unwrap()
    }
}

/// The one error of a failed run.
fn error(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let (_, message) =
        text.rsplit_once("error: ").unwrap_or_else(|| panic!("no error in {text:?}"));
    message.trim_end().to_owned()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}

#[test]
fn not_a_debian() {
    let message = error(&Machine::new().with(&["cc", "make"]).run(&["setup"]));
    assert!(message.starts_with("apt-get is missing"), "{message}");
    assert!(message.contains("SPDK_DIR") && !message.contains('\n'), "{message}");
}

#[test]
fn no_compiler() {
    let machine =
        Machine::new().script("apt-get", "echo 'E: Unable to locate package gcc'; exit 100");
    let message = error(&machine.run(&["setup"]));
    if is_root() {
        assert!(
            message.contains("setup.log") && message.contains("Unable to locate package"),
            "{message}"
        );
    } else {
        assert!(
            message.contains("cc, ") && message.contains("`sudo apt-get install -y gcc "),
            "{message}"
        );
    }
}

#[test]
fn no_network() {
    let script = "echo \"  Temporary failure resolving 'deb.example'\"; exit 100";
    let machine = Machine::new().script("apt-get", script);
    let message = error(&machine.run(&["setup"]));
    if is_root() {
        assert!(message.starts_with("no network: "), "{message}");
        assert!(message.contains("deb.example") && !message.contains('\n'), "{message}");
    }
}

#[test]
fn a_cache_that_cannot_be() {
    let machine = Machine::new().script("apt-get", "exit 100");
    let file = machine.dir.path().join("file");
    fs::write(&file, "").unwrap();
    for cache in [file.join("cache"), machine.dir.path().join("with space")] {
        let message = error(&machine.run_with_cache(&["setup"], &cache));
        if is_root() {
            assert!(message.contains("XDG_CACHE_HOME") && !message.contains('\n'), "{message}");
        }
    }
}

#[test]
fn an_spdk_dir_that_is_none() {
    let machine = Machine::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-spdk"));
    command.arg("setup").env("SPDK_DIR", machine.dir.path());
    let message = error(&command.output().unwrap());
    assert!(message.starts_with("SPDK_DIR="), "{message}");
}

#[test]
fn doctor_names_what_is_missing() {
    let machine = Machine::new().script("apt-get", "echo apt 2.6.1 '(amd64)'");
    let output = machine.run(&["spdk", "doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("SPDK      none found\n"), "{text}");
    assert!(text.contains("apt-get install -y gcc\n"), "{text}");
    assert!(text.contains("\n  cargo spdk setup\n"), "{text}");

    let output = machine.run(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["ok"]), (Some(1), &false.into()));
    let tools = report["tools"].as_array().unwrap();
    let tool = |name: &str| tools.iter().find(|tool| tool["name"] == name).unwrap();
    assert_eq!(tool("apt-get")["found"]["version"], "2.6.1");
    assert_eq!(tool("cc")["found"], serde_json::Value::Null);
    assert!(tool("cc")["mend"].as_str().unwrap().ends_with("apt-get install -y gcc"));
}
