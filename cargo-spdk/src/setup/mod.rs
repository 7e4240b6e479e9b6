//! `cargo spdk setup`: builds an SPDK where none is found.

mod apt;
mod build;
mod install;
mod pc;
mod sources;
mod stage;

use std::path::Path;
use std::process::ExitCode;

use spdk_plugin_build::{FindError, SETUP_VERSION, Source, Spdk, cache_dir, setup_copy};

use self::apt::Apt;
use self::build::Tree;
use self::stage::Stage;
use crate::error::{Error, Result};
use crate::print;
use crate::progress::{Measure, Progress};
use crate::run::{Interrupt, Runner};
use crate::tools::{self, Need};

/// Build SPDK into the user's cache directory, unless one is found already
///
/// SPDK is looked for in SPDK_DIR, then by pkg-config, then in the cache. The copy is SPDK 20.07 out of Debian's source
/// archive; a newer one is installed by SPDK's own guide and named by SPDK_DIR.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build the copy in any case, also where one exists
    #[arg(long)]
    force: bool,
}

/// An SPDK that can be built with.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) spdk: Spdk,
    /// Whether it was built just now.
    built: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Ready { spdk, built } = ensure(args.force)?;
    let text = match built {
        false => format!(
            "SPDK {} (found by {}): nothing to do, `cargo spdk setup --force` builds a copy in any case",
            describe(&spdk),
            spdk.source()
        ),
        true => match look() {
            Ok(first) if first.prefix() != spdk.prefix() => format!(
                "SPDK {}; {} names SPDK {}, which goes first",
                describe(&spdk),
                first.source(),
                describe(&first)
            ),
            _ => format!("SPDK {} is ready", describe(&spdk)),
        },
    };
    print(&format!("{text}\n"));
    Ok(ExitCode::SUCCESS)
}

/// Version, place and kinds of libraries.
pub(crate) fn describe(spdk: &Spdk) -> String {
    let kinds = match (spdk.has_shared(), spdk.has_static()) {
        (true, true) => "shared and static",
        (true, false) => "shared",
        (false, true) => "static",
        (false, false) => "without DPDK's libraries",
    };
    format!("{} in {}, {kinds}", spdk.version(), spdk.prefix().display())
}

/// Sees to it that there are an SPDK and the tools to build with it; `force` builds the copy in any case.
pub(crate) fn ensure(force: bool) -> Result<Ready> {
    let nowhere =
        "no home directory is known: set XDG_CACHE_HOME to a directory where SPDK may be built";
    let (root, copy) = cache_dir().zip(setup_copy()).ok_or_else(|| Error::new(nowhere))?;
    let spdk = if force { None } else { found()? };
    let needs: &[Need] = if spdk.is_none() { &[Need::Build, Need::Setup] } else { &[Need::Build] };
    let missing = tools::missing(needs);
    if let Some(spdk) = &spdk
        && missing.is_empty()
    {
        return Ok(Ready { spdk: spdk.clone(), built: false });
    }
    refuse(&missing, tools::is_root())?;

    let interrupt = Interrupt::listen()?;
    let stage = Stage::enter(&root, &interrupt)?;
    let mut runner = Runner::new(&stage.log(), interrupt)?;
    let mut progress = Progress::new();
    let apt = Apt::new(&stage.download())?;
    if !missing.is_empty() {
        install_tools(needs, &apt, &mut runner, &mut progress)?;
    }
    // Another set-up may have finished while this one waited.
    if !force && let Some(spdk) = found()? {
        return Ok(Ready { spdk, built: false });
    }
    build(&copy, &stage, &apt, &mut runner, &mut progress)?;
    progress.finish();
    eprintln!(
        "Set up in {} s, with a log in {}",
        progress.elapsed().as_secs(),
        stage.log().display()
    );
    let spdk = Spdk::at(&copy).map_err(|error| Error::new(error.to_string()))?;
    Ok(Ready { spdk, built: true })
}

/// Installs the packages that bring what is missing; the tests' own tools come along, they are small.
fn install_tools(
    needs: &[Need],
    apt: &Apt,
    runner: &mut Runner,
    progress: &mut Progress,
) -> Result<()> {
    let packages = tools::packages(&tools::missing(&[needs, &[Need::Test]].concat()));
    progress.phase(&format!("Installing {}", packages.join(" ")), Measure::Unknown);
    apt.install(&packages, runner)?;
    progress.finish();
    let missing = tools::missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!(
        "{} although the packages are installed: see that PATH and LIBCLANG_PATH lead to what the system has",
        list(&missing)
    )))
}

/// The SPDK there is. A copy of our own that is damaged counts as none: it is built anew.
pub(crate) fn look() -> Result<Spdk, FindError> {
    let copy = setup_copy().filter(|copy| copy.is_dir());
    let whole = |spdk: &Spdk| spdk.program("spdk_tgt").is_some();
    match (Spdk::find(), copy) {
        (Ok(spdk), _) if spdk.source() == Source::SetupCopy && !whole(&spdk) => {
            Err(FindError::Nowhere)
        }
        (Err(_), Some(copy))
            if std::env::var_os("SPDK_DIR").is_none() && Spdk::at(&copy).is_err() =>
        {
            Err(FindError::Nowhere)
        }
        (found, _) => found,
    }
}

fn found() -> Result<Option<Spdk>> {
    match look() {
        Ok(spdk) => Ok(Some(spdk)),
        Err(FindError::Nowhere) => Ok(None),
        Err(error) => Err(Error::new(error.to_string())),
    }
}

/// Fails where what is missing cannot be installed from here.
fn refuse(missing: &[&tools::Tool], root: bool) -> Result<()> {
    if let Some(tool) = missing.iter().find(|tool| tool.package().is_none()) {
        return Err(Error::new(format!(
            "{} is missing, and this set-up works on Debian and its relatives only: {}",
            tool.name,
            tools::GUIDE
        )));
    }
    let apt = tools::which("apt-get").is_some();
    if missing.is_empty() || (root && apt) {
        return Ok(());
    }
    let why = if apt { " and only root can install packages" } else { "" };
    Err(Error::new(format!("{}{why}: {}", list(missing), advice(missing))))
}

/// As in "meson, ninja are missing".
fn list(missing: &[&tools::Tool]) -> String {
    let names: Vec<&str> = missing.iter().map(|tool| tool.name).collect();
    format!("{} {} missing", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

fn advice(missing: &[&tools::Tool]) -> String {
    let command = tools::install_command(&tools::packages(missing));
    let command =
        if tools::which("apt-get").is_some() { format!("type `{command}`") } else { command };
    format!("{command}, then type `cargo spdk setup` again")
}

fn build(
    copy: &Path,
    stage: &Stage,
    apt: &Apt,
    runner: &mut Runner,
    progress: &mut Progress,
) -> Result<()> {
    stage.check_space()?;
    if !progress.on_terminal() {
        eprintln!(
            "Setting up SPDK {SETUP_VERSION} in {}: this takes a few minutes",
            copy.display()
        );
    }
    let archive = apt.fetch(runner, progress)?;
    let source =
        Tree::unpack(&archive, &stage.work("source")?, &stage.work("tmp")?, runner, progress)?;
    source.compile(copy, runner, progress)?;
    let prefix = stage.work("prefix")?;
    install::install(&source, &prefix, runner, progress)?;
    stage.publish(&prefix, copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_told_what_to_type() {
        let missing: Vec<&tools::Tool> =
            tools::TOOLS.iter().filter(|tool| ["meson", "ninja"].contains(&tool.name)).collect();
        let message = refuse(&missing, false).unwrap_err().to_string();
        assert!(message.starts_with("meson, ninja are missing"), "{message}");
        assert!(message.contains("apt-get install -y meson ninja-build`"), "{message}");
        assert!(refuse(&missing, true).is_ok());
        assert!(refuse(&[], false).is_ok());
    }

    #[test]
    fn without_apt_there_is_only_the_guide() {
        let apt: Vec<&tools::Tool> =
            tools::TOOLS.iter().filter(|tool| tool.name == "apt-get").collect();
        for root in [true, false] {
            let message = refuse(&apt, root).unwrap_err().to_string();
            assert!(message.contains("SPDK_DIR"), "{message}");
        }
    }
}
