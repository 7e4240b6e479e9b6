//! Runs every case of the program `cases` in a process of its own.

use std::path::Path;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use spdk_plugin_tests::{Build, Host, HostBuilder, Memory, spdk};

/// How long a case may take.
const TIMEOUT: Duration = Duration::from_secs(120);

fn program(path: &Path) -> HostBuilder {
    Host::builder(spdk(), path).bare().memory(Memory::NoHuge)
}

fn main() {
    let arguments = Arguments::from_args();
    let path = Build::package("spdk-plugin-test-cases").bin(spdk(), "cases");
    let path = path.unwrap_or_else(|error| panic!("cannot build the cases: {error}"));
    let list = program(&path).arg("--list").run(TIMEOUT).unwrap();
    assert!(list.status.success(), "{}", list.log);
    let trial = |name: &str| {
        let (path, name) = (path.clone(), name.to_owned());
        Trial::test(name.clone(), move || {
            let output = program(&path).arg(&name).run(TIMEOUT)?;
            match output.status.success() {
                true => Ok(()),
                false => Err(format!("{}\n{}", output.status, output.log).into()),
            }
        })
    };
    let trials = list.log.lines().map(trial).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
