//! Fetches Debian's `ceph` source, which carries SPDK, by apt with a configuration of its own.
//!
//! The system's lists and caches stay untouched: every directory apt writes to lies below one of ours.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::sources::{Mirror, configured_mirrors};
use crate::error::{Error, Result};
use crate::progress::{Measure, Progress};
use crate::run::{Event, Runner, Stopped};
use crate::tools::is_root;

/// The release whose `ceph` source carries SPDK whole.
const SUITE: &str = "trixie";
const PACKAGE: &str = "ceph";

/// apt, kept to one directory.
#[derive(Debug)]
pub(crate) struct Apt {
    dir: PathBuf,
}

/// A source archive as the signed index describes it.
#[derive(Debug, PartialEq, Eq)]
struct Archive {
    file: String,
    bytes: u64,
}

impl Apt {
    /// apt below `dir`, where a download that was interrupted earlier goes on.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        for sub in ["lists/partial", "archives/partial", "sources", "source"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).map_err(|error| Error::io("create", &sub, &error))?;
        }
        Ok(Apt { dir: dir.to_owned() })
    }

    /// Brings the archive with SPDK's source here; apt checks it against the signed index.
    pub(crate) fn fetch(&self, runner: &mut Runner, progress: &mut Progress) -> Result<PathBuf> {
        progress.phase("Reading Debian's index of sources", Measure::Unknown);
        let archive = self.find(runner)?;
        let title = format!("Downloading SPDK's source ({} MB)", archive.bytes / 1_000_000);
        let bar = progress.phase(&title, Measure::Bytes(archive.bytes));
        let path = self.dir.join("source").join(&archive.file);
        let mut command = self.apt_get(&["source", "--download-only", "--tar-only", PACKAGE]);
        command.current_dir(self.dir.join("source"));
        let mut observer = |_: Event<'_>| {
            bar.set_position(fs::metadata(&path).map_or(0, |file| file.len()));
        };
        match runner.watch("downloading SPDK's source", &mut command, &mut observer) {
            Ok(_) if path.is_file() => Ok(path),
            Ok(_) => Err(Error::new(format!(
                "apt-get downloaded no {}: type `cargo spdk setup` again",
                archive.file
            ))),
            Err(stopped) => Err(explain(runner, stopped)),
        }
    }

    /// Reads the index of the first mirror that has the package.
    fn find(&self, runner: &mut Runner) -> Result<Archive> {
        let mut first = None;
        for mirror in configured_mirrors() {
            match self.find_at(&mirror, runner) {
                Ok(archive) => return Ok(archive),
                Err(error) => {
                    runner.interrupt.check()?;
                    first.get_or_insert(error);
                }
            }
        }
        Err(first.unwrap_or_else(|| Error::new(
                "apt has no Debian mirror configured: set DEBIAN_MIRROR to the address of one, then type `cargo spdk setup` again",
            )))
    }

    fn find_at(&self, mirror: &Mirror, runner: &mut Runner) -> Result<Archive> {
        let sources = self.dir.join("sources/debian.sources");
        fs::write(&sources, stanza(mirror))
            .map_err(|error| Error::io("write", &sources, &error))?;
        let config = self.dir.join("apt.conf");
        let text = self.config(&self.dir.join("sources"));
        fs::write(&config, text).map_err(|error| Error::io("write", &config, &error))?;
        let mut update = self.apt_get(&["update"]);
        runner
            .watch("reading Debian's index of sources", &mut update, &mut |_| ())
            .map_err(|stopped| explain(runner, stopped))?;
        let mut uris = self.apt_get(&["source", "--print-uris", "--tar-only", PACKAGE]);
        let output = runner
            .watch("looking for SPDK's source", &mut uris, &mut |_| ())
            .map_err(|stopped| explain(runner, stopped))?;
        output.iter().find_map(|line| archive(line)).ok_or_else(|| {
            Error::new(format!(
                "the Debian mirror {} lacks the source of {PACKAGE} in {SUITE}: name another mirror in apt's sources, \
                 then type `cargo spdk setup` again",
                mirror.uri
            ))
        })
    }

    /// Installs packages into the system, first by the system's own lists, then by fresh ones of our own.
    pub(crate) fn install(&self, packages: &[String], runner: &mut Runner) -> Result<()> {
        let what = format!("installing {}", packages.join(" "));
        let install = |mut command: Command| {
            command.args(["install", "-y", "--no-install-recommends"]).args(packages);
            command
        };
        if runner.watch(&what, &mut install(apt_get()), &mut |_| ()).is_ok() {
            return Ok(());
        }
        runner.interrupt.check()?;
        let config = self.dir.join("apt.conf");
        fs::write(&config, self.directories())
            .map_err(|error| Error::io("write", &config, &error))?;
        let mut update = self.apt_get(&["update"]);
        let updated = runner.watch("reading the package lists", &mut update, &mut |_| ());
        updated.map_err(|stopped| explain(runner, stopped))?;
        let installed = runner.watch(&what, &mut install(self.apt_get(&[])), &mut |_| ());
        installed.map(drop).map_err(|stopped| explain(runner, stopped))
    }

    fn apt_get(&self, args: &[&str]) -> Command {
        let mut command = apt_get();
        // Given by name the file is read after the system's, so that it has the last word.
        command.arg("--config-file").arg(self.dir.join("apt.conf")).args(args);
        command
    }

    /// The directories apt may write to, and no hooks of the system's.
    fn directories(&self) -> String {
        let dir = self.dir.display();
        let mut text = format!(
            "Dir::State::Lists \"{dir}/lists\";\n\
             Dir::Cache \"{dir}\";\n\
             Dir::Cache::Archives \"{dir}/archives\";\n\
             Acquire::Retries \"2\";\n\
             Acquire::http::Timeout \"30\";\n\
             Acquire::https::Timeout \"30\";\n\
             Acquire::Languages \"none\";\n\
             APT::Update::Error-Mode \"any\";\n\
             #clear APT::Update::Pre-Invoke;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n"
        );
        if is_root() {
            // apt's own user cannot reach into a home directory.
            text.push_str("APT::Sandbox::User \"root\";\n");
        }
        text
    }

    fn config(&self, sources: &Path) -> String {
        let mut text = self.directories();
        let _ = write!(
            text,
            "Dir::Etc::SourceList \"/dev/null\";\nDir::Etc::SourceParts \"{}\";\n",
            sources.display()
        );
        text
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The mirror as apt's source of sources.
fn stanza(mirror: &Mirror) -> String {
    let mut text =
        format!("Types: deb-src\nURIs: {}\nSuites: {SUITE}\nComponents: main\n", mirror.uri);
    if let Some(key) = &mirror.signed_by {
        let _ = writeln!(text, "Signed-By: {key}");
    }
    text
}

/// Reads a line of `apt-get source --print-uris`: `'uri' file bytes hash`.
fn archive(line: &str) -> Option<Archive> {
    let mut words = line.strip_prefix('\'')?.split_whitespace().skip(1);
    let file = words.next().filter(|file| file.contains(".orig.tar") && !file.contains('/'))?;
    Some(Archive { file: file.to_owned(), bytes: words.next()?.parse().ok()? })
}

/// What apt could not do, in one sentence.
fn explain(runner: &Runner, stopped: Stopped) -> Error {
    let failed = match &stopped {
        Stopped::Failed(failed) => failed,
        Stopped::Error(_) => return runner.error(stopped),
    };
    const OFFLINE: &[&str] = &[
        "Temporary failure resolving",
        "Could not resolve",
        "Could not connect",
        "Cannot initiate the connection",
        "Network is unreachable",
        "Connection timed out",
        "Connection refused",
        "connection timed out",
    ];
    let offline = failed.output.iter().find(|line| OFFLINE.iter().any(|sign| line.contains(sign)));
    match offline {
        Some(line) => Error::new(format!(
            "no network: {} failed ({}): check the connection and apt's proxy setting, then type `cargo spdk setup` \
             again",
            failed.what,
            line.trim_start_matches(['E', 'W', ':', ' '])
        )),
        None => runner.error(stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_archive() {
        let line = "'http://deb.example/pool/main/c/ceph/ceph_18.2.7%2bds.orig.tar.xz' ceph_18.2.7+ds.orig.tar.xz \
                    148306992 SHA256:71c0";
        let expected = Archive { file: "ceph_18.2.7+ds.orig.tar.xz".into(), bytes: 148_306_992 };
        assert_eq!(archive(line), Some(expected));
        for line in [
            "Reading package lists...",
            "'http://x/ceph.dsc' ceph_18.dsc 8000 SHA256:1",
            "'http://x/y' ../ceph.orig.tar.xz 1 SHA256:1",
            "'http://x/y' ceph.orig.tar.xz many SHA256:1",
        ] {
            assert_eq!(archive(line), None, "{line}");
        }
    }

    #[test]
    fn writes_the_stanza() {
        let mirror =
            Mirror { uri: "http://deb.example/debian".into(), signed_by: Some("/k.gpg".into()) };
        let text = "Types: deb-src\nURIs: http://deb.example/debian\nSuites: trixie\nComponents: main\n\
                    Signed-By: /k.gpg\n";
        assert_eq!(stanza(&mirror), text);
    }

    #[test]
    fn writes_only_below_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let config = Apt::new(dir.path()).unwrap().config(&dir.path().join("sources"));
        for line in config.lines().filter(|line| line.starts_with("Dir::")) {
            assert!(
                line.contains(dir.path().to_str().unwrap()) || line.contains("/dev/null"),
                "{line}"
            );
        }
    }
}
