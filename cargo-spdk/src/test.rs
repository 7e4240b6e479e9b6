//! `cargo spdk test`: every test, against one SPDK or several.

use std::path::PathBuf;
use std::process::ExitCode;

use spdk_plugin_build::Spdk;

use crate::error::{Error, Result};
use crate::setup::describe;
use crate::workspace;

/// Run every test of the workspace on real SPDK programs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Test against the SPDK in this directory; may be given several times
    #[arg(long, value_name = "DIR")]
    spdk: Vec<PathBuf>,
    /// Passed on to `cargo test`
    #[arg(last = true)]
    args: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // Also where directories are named: the tools that the tests need come with it.
    let default = workspace::spdk();
    let named = args.spdk.iter().map(|dir| Spdk::at(dir).map_err(workspace::rig));
    let spdks: Vec<Spdk> = match args.spdk.is_empty() {
        true => vec![default?],
        false => named.collect::<Result<_>>()?,
    };
    let mut failed = Vec::new();
    for (i, spdk) in spdks.iter().enumerate() {
        eprintln!("Testing with SPDK {}", describe(spdk));
        let mut cargo = workspace::cargo(spdk);
        cargo.args(["test", "--workspace", "--no-fail-fast"]);
        let dir = workspace::target_dir()?.join(format!("spdk-{}", spdk.version()));
        cargo.arg("--target-dir").arg(dir);
        // Those who have two find out what one says to a plugin of the other.
        if let Some(other) = spdks.iter().cycle().nth(i + 1).filter(|_| spdks.len() > 1) {
            cargo.env("SPDK_PLUGIN_OTHER_SPDK", other.prefix());
        }
        cargo.args(&args.args);
        let status = cargo.status().map_err(|error| Error::new(format!("cargo: {error}")))?;
        if !status.success() {
            failed.push(spdk.version().to_string());
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Error::new(format!("tests failed with SPDK {}", failed.join(" and "))))
}
