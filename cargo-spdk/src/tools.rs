//! The programs and libraries of the system that the work needs, and the Debian packages that bring them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

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
    tool("binutils", Need::Setup, Probe::Program("readelf"), "binutils"),
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
                let path = libclang()?;
                let version = llvm_version(&path).map(|v| v.to_string()).unwrap_or_default();
                Some(Found { path, version })
            }
            Probe::LibclangHeaders => {
                Some(Found { path: libclang_headers()?, version: String::new() })
            }
        }
    }

    /// The package that brings it, if there is one.
    pub(crate) fn package(&self) -> Option<String> {
        match self.package {
            Package::Debian(name) => Some(name.to_owned()),
            Package::Libclang(name) => match libclang_version() {
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

/// libclang's shared library, where bindgen looks for it.
fn libclang() -> Option<PathBuf> {
    let named = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    if let Some(path) = named.filter(|path| path.is_file()) {
        return Some(path);
    }
    let is_libclang = |name: &str| {
        (name.starts_with("libclang.so") || name.starts_with("libclang-"))
            && name.contains(".so")
            && !name.starts_with("libclang-cpp")
    };
    libclang_dirs().into_iter().find_map(|dir| {
        let mut names: Vec<String> = list(&dir).into_iter().filter(|n| is_libclang(n)).collect();
        names.sort();
        names.first().map(|name| dir.join(name))
    })
}

/// The headers of the compiler itself that go with libclang, such as `limits.h`.
fn libclang_headers() -> Option<PathBuf> {
    let library = libclang()?.canonicalize().ok()?;
    let version = llvm_version(&library);
    let mut roots = vec![library.parent()?.join("clang"), PathBuf::from("/usr/lib/clang")];
    if let Some(version) = version {
        roots.push(format!("/usr/lib/llvm-{version}/lib/clang").into());
    }
    roots.into_iter().find_map(|root| {
        let versions = list(&root).into_iter().map(|name| root.join(name).join("include"));
        versions.into_iter().find(|dir| dir.join("limits.h").is_file())
    })
}

fn libclang_dirs() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        std::env::var_os("LIBCLANG_PATH").map(PathBuf::from).into_iter().collect();
    let mut llvm: Vec<(u32, PathBuf)> = (list(Path::new("/usr/lib")).into_iter())
        .filter_map(|name| {
            let version = name.strip_prefix("llvm-")?.parse().ok()?;
            Some((version, Path::new("/usr/lib").join(name).join("lib")))
        })
        .collect();
    llvm.sort();
    dirs.extend(llvm.into_iter().rev().map(|(_, dir)| dir));
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    dirs.extend(
        [multiarch.as_str(), "/usr/lib64", "/usr/lib", "/usr/local/lib"].map(PathBuf::from),
    );
    dirs
}

/// The version in names such as `/usr/lib/llvm-14/lib/libclang.so.1` and `libclang-14.so.14.0.6`.
fn llvm_version(path: &Path) -> Option<u32> {
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    [path, &real].into_iter().find_map(|path| {
        let parts = path.iter().filter_map(|part| part.to_str());
        parts.rev().find_map(|part| {
            ["libclang-", "llvm-", "libclang.so."].into_iter().find_map(|before| {
                number(part.strip_prefix(before)?).filter(|version| *version > 3)
            })
        })
    })
}

/// The version to install or complete: that of the library there is, else the distribution's own.
fn libclang_version() -> Option<u32> {
    if let Some(version) = libclang().and_then(|path| llvm_version(&path)) {
        return Some(version);
    }
    let output = Command::new("apt-cache").args(["depends", "libclang-dev"]).output().ok()?;
    depended_version(&String::from_utf8_lossy(&output.stdout))
}

/// The number in `Depends: libclang-14-dev`.
fn depended_version(text: &str) -> Option<u32> {
    text.split_whitespace()
        .find_map(|word| word.strip_prefix("libclang-")?.strip_suffix("-dev")?.parse().ok())
}

fn list(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
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
            ("GNU readelf (GNU Binutils for Debian) 2.40", "2.40"),
            ("apt 2.6.1 (amd64)", "2.6.1"),
            ("Python 3.11.2", "3.11.2"),
            ("1.8.1", "1.8.1"),
            ("", ""),
        ] {
            assert_eq!(version_in(line), version, "{line}");
        }
    }

    #[test]
    fn versions_of_libclang() {
        for (path, version) in [
            ("/nonexistent/llvm-14/lib/libclang.so.1", Some(14)),
            ("/nonexistent/libclang-19.so.19.1.7", Some(19)),
            ("/nonexistent/libclang.so", None),
        ] {
            assert_eq!(llvm_version(Path::new(path)), version, "{path}");
        }
        assert_eq!(depended_version("libclang-dev\n  Depends: libclang-14-dev\n"), Some(14));
        assert_eq!(depended_version("N: Unable to locate package libclang-dev"), None);
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
