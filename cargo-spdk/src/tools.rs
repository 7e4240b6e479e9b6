//! The programs and libraries of the system that the work needs, and the Debian packages that bring them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::libclang;

/// The way that is left where `cargo spdk setup` has no apt.
pub(crate) const GUIDE: &str = "install SPDK by its own guide (https://spdk.io/doc/getting_started.html), configured \
     --with-shared, and set SPDK_DIR to its prefix";

/// What a tool is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Need {
    /// To build anything with SPDK.
    Build,
    /// To build SPDK itself.
    Setup,
    /// To run the whole test suite.
    Test,
}

/// How a tool is recognised.
#[derive(Clone, Copy, Debug)]
enum Probe {
    Program(&'static str),
    Header(&'static str),
    Python(&'static str),
    Libclang,
    LibclangHeaders,
}

/// One thing the system may have or lack.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) need: Need,
    probe: Probe,
    package: Package,
}

#[derive(Clone, Copy, Debug)]
enum Package {
    Debian(&'static str),
    /// Debian names libclang's packages after its version.
    Libclang(fn(u32) -> String),
    /// No package brings it.
    None,
}

/// A tool that is there.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

const fn tool(name: &'static str, need: Need, probe: Probe, package: &'static str) -> Tool {
    Tool { name, need, probe, package: Package::Debian(package) }
}

/// Everything that is looked for, in the order in which it is shown.
pub(crate) const TOOLS: &[Tool] = &[
    tool("cc", Need::Build, Probe::Program("cc"), "gcc"),
    tool("C library headers", Need::Build, Probe::Header("stdio.h"), "libc6-dev"),
    tool("make", Need::Setup, Probe::Program("make"), "make"),
    tool("pkg-config", Need::Build, Probe::Program("pkg-config"), "pkg-config"),
    Tool {
        name: "libclang",
        need: Need::Build,
        probe: Probe::Libclang,
        package: Package::Libclang(|version| format!("libclang1-{version}")),
    },
    Tool {
        name: "libclang headers",
        need: Need::Build,
        probe: Probe::LibclangHeaders,
        package: Package::Libclang(|version| format!("libclang-common-{version}-dev")),
    },
    tool("libuuid", Need::Build, Probe::Header("uuid/uuid.h"), "uuid-dev"),
    tool("libcrypto", Need::Build, Probe::Header("openssl/evp.h"), "libssl-dev"),
    tool("libaio", Need::Build, Probe::Header("libaio.h"), "libaio-dev"),
    tool("python3", Need::Build, Probe::Program("python3"), "python3"),
    tool("python3 venv", Need::Test, Probe::Python("import ensurepip, venv"), "python3-venv"),
    Tool {
        name: "apt-get",
        need: Need::Setup,
        probe: Probe::Program("apt-get"),
        package: Package::None,
    },
    tool("binutils", Need::Setup, Probe::Program("strip"), "binutils"),
    tool("tar", Need::Setup, Probe::Program("tar"), "tar"),
    tool("xz", Need::Setup, Probe::Program("xz"), "xz-utils"),
    tool("meson", Need::Setup, Probe::Program("meson"), "meson"),
    tool("ninja", Need::Setup, Probe::Program("ninja"), "ninja-build"),
    tool("CUnit", Need::Setup, Probe::Header("CUnit/Basic.h"), "libcunit1-dev"),
];

impl Tool {
    pub(crate) fn look(&self) -> Option<Found> {
        match self.probe {
            Probe::Program(name) => {
                let path = which(name)?;
                let version = first_line(Command::new(&path).arg("--version"));
                Some(Found { version: version_in(&version), path })
            }
            Probe::Header(name) => {
                let path = header(name)?;
                Some(Found { path, version: String::new() })
            }
            Probe::Python(code) => {
                let path = which("python3")?;
                let ran = Command::new(&path).args(["-c", code]).stderr(Stdio::null()).status();
                let there = ran.is_ok_and(|status| status.success());
                there.then(|| Found { path, version: String::new() })
            }
            Probe::Libclang => {
                let path = libclang::library()?;
                let version = libclang::version(&path).map(|v| v.to_string()).unwrap_or_default();
                Some(Found { path, version })
            }
            Probe::LibclangHeaders => {
                Some(Found { path: libclang::headers()?, version: String::new() })
            }
        }
    }

    /// The package that brings it, if there is one.
    pub(crate) fn package(&self) -> Option<String> {
        match self.package {
            Package::Debian(name) => Some(name.to_owned()),
            Package::Libclang(name) => match libclang::version_to_install() {
                Some(version) => Some(name(version)),
                None => Some("libclang-dev".to_owned()),
            },
            Package::None => None,
        }
    }

    /// What to do where it is missing.
    pub(crate) fn mend(&self) -> String {
        match self.package() {
            Some(package) => install_command(&[package]),
            None => format!("only Debian and its relatives have it; {GUIDE}"),
        }
    }
}

/// The tools that are missing out of those needed for one of `needs`.
pub(crate) fn missing(needs: &[Need]) -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| needs.contains(&tool.need) && tool.look().is_none()).collect()
}

/// The packages that bring `tools`, each once.
pub(crate) fn packages(tools: &[&Tool]) -> Vec<String> {
    let mut packages: Vec<String> = tools.iter().filter_map(|tool| tool.package()).collect();
    let mut seen = Vec::new();
    packages.retain(|package| {
        !seen.contains(package) && {
            seen.push(package.clone());
            true
        }
    });
    packages
}

/// What a person does to install packages: a command, or advice where there is no apt.
pub(crate) fn install_command(packages: &[String]) -> String {
    let packages = packages.join(" ");
    match (which("apt-get").is_some(), is_root()) {
        (true, true) => format!("apt-get install -y {packages}"),
        (true, false) => format!("sudo apt-get install -y {packages}"),
        (false, _) => format!("install what Debian calls {packages}"),
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The first program of that name in `PATH`.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| {
        fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

/// Where the C compiler finds a header, or would find it if there were a compiler.
fn header(name: &str) -> Option<PathBuf> {
    let Some(cc) = which("cc") else {
        let multiarch = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
        let mut paths =
            ["/usr/include", &multiarch].map(|dir| Path::new(dir).join(name)).into_iter();
        return paths.find(|path| path.is_file());
    };
    let mut preprocess = Command::new(cc);
    preprocess.args(["-M", "-xc", "-include", name, "/dev/null"]);
    let output = preprocess.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    text.split_whitespace().find(|word| word.ends_with(name)).map(PathBuf::from)
}

fn first_line(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("").to_owned()
}

/// The first number that stands outside of parentheses: `12.2.0` in `cc (Debian 12.2.0-14) 12.2.0`.
fn version_in(line: &str) -> String {
    let mut depth = 0i32;
    let outside: String = (line.chars())
        .filter(|c| {
            depth += i32::from(*c == '(');
            let keep = depth == 0;
            depth -= i32::from(*c == ')');
            keep
        })
        .collect();
    let mut words = outside.split_whitespace();
    words.find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_programs() {
        for (line, version) in [
            ("cc (Debian 12.2.0-14+deb12u1) 12.2.0", "12.2.0"),
            ("GNU Make 4.3", "4.3"),
            ("GNU strip (GNU Binutils for Debian) 2.40", "2.40"),
            ("apt 2.6.1 (amd64)", "2.6.1"),
            ("Python 3.11.2", "3.11.2"),
            ("1.8.1", "1.8.1"),
            ("", ""),
        ] {
            assert_eq!(version_in(line), version, "{line}");
        }
    }

    #[test]
    fn packages_are_named_once() {
        let tools: Vec<&Tool> = TOOLS.iter().chain(TOOLS).collect();
        let packages = packages(&tools);
        assert_eq!(packages.iter().filter(|p| *p == "gcc").count(), 1);
        assert!(packages.iter().any(|p| p == "ninja-build"));
    }

    #[test]
    fn finds_programs_only() {
        assert!(which("sh").is_some());
        assert_eq!(which("no-such-program-anywhere"), None);
    }
}
