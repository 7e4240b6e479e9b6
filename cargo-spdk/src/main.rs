//! The `cargo spdk` command.

mod bench;
mod demo;
mod doctor;
mod error;
mod libclang;
mod memory;
mod progress;
mod run;
mod setup;
mod table;
mod test;
mod tools;
mod workspace;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Write SPDK block devices in Rust: set up SPDK, see the demo, run the tests.
#[derive(Debug, Parser)]
#[command(name = "cargo spdk", bin_name = "cargo spdk", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Test(test::Args),
    Bench(bench::Args),
    Setup(setup::Args),
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse_from(arguments(std::env::args_os())).command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Setup(args) => setup::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.exit_code()
    })
}

/// Writes to the standard output; a reader that stops early, such as `head`, is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Cargo calls an installed `cargo-spdk` with `spdk` as its first argument; the workspace's alias does not.
fn arguments(all: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<_> = all.collect();
    if all.get(1).is_some_and(|first| first == "spdk") {
        all.remove(1);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(arguments(line.split(' ').map(OsString::from)))
    }

    #[test]
    fn both_ways_to_be_called() {
        for line in ["cargo-spdk setup", "cargo-spdk spdk setup", "cargo-spdk spdk doctor --json"] {
            assert!(parse(line).is_ok(), "{line}");
        }
        assert!(parse("cargo-spdk spdk spdk setup").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
