//! Test cases for what applications use. SPDK comes up once a process, so each case has its own:
//! `cases --list` names them, `cases <name>` runs one. A case fails by a panic.
//!
//! To add one: a function in the module of its topic, and its name in that module's `cases!`.

use std::process::ExitCode;

mod app;
mod bdev;
mod claims;
mod control;
mod count;
mod disk;
mod dma;
mod drive;
mod elsewhere;
mod env;
mod events;
mod io;
mod leave;
mod off;
mod programs;
mod reactor;
mod rpc;
mod subsystems;
mod support;
mod thread;

/// A case's name and its function.
type Case = (&'static str, fn());

/// Every module of cases.
const MODULES: &[(&str, &[Case])] = &[
    ("app", app::CASES),
    ("bdev", bdev::CASES),
    ("claims", claims::CASES),
    ("control", control::CASES),
    ("dma", dma::CASES),
    ("events", events::CASES),
    ("io", io::CASES),
    ("leave", leave::CASES),
    ("drive", drive::CASES),
    ("elsewhere", elsewhere::CASES),
    ("env", env::CASES),
    ("off", off::CASES),
    ("reactor", reactor::CASES),
    ("rpc", rpc::CASES),
    ("subsystems", subsystems::CASES),
    ("thread", thread::CASES),
];

/// Makes the table of a module's cases of its functions.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(crate) const CASES: &[$crate::Case] = &[$((stringify!($name), $name)),*];
    };
}

fn all() -> impl Iterator<Item = (String, fn())> {
    MODULES.iter().flat_map(|(module, cases)| {
        cases.iter().map(move |(name, function)| (format!("{module}::{name}"), *function))
    })
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    match name.as_str() {
        "--list" => all().for_each(|(name, _)| println!("{name}")),
        "--program" => return programs::run(&args.next().unwrap_or_default()),
        _ => match all().find(|(known, _)| *known == name) {
            Some((_, function)) => function(),
            None => {
                eprintln!("'{name}' is no case: `cases --list` names them");
                return ExitCode::FAILURE;
            }
        },
    }
    ExitCode::SUCCESS
}
