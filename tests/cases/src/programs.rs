//! Programs that do not end by themselves, for tests that send them signals and RPCs:
//! `cases --program <name>`.

use std::process::ExitCode;

pub(crate) fn run(name: &str) -> ExitCode {
    eprintln!("'{name}' is no program");
    ExitCode::FAILURE
}
