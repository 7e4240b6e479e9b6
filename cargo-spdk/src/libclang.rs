//! libclang, which bindgen loads to read SPDK's headers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// libclang's shared library, where bindgen looks for it.
pub(crate) fn library() -> Option<PathBuf> {
    let named = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    if let Some(path) = named.filter(|path| path.is_file()) {
        return Some(path);
    }
    let is_libclang = |name: &str| {
        (name.starts_with("libclang.so") || name.starts_with("libclang-"))
            && name.contains(".so")
            && !name.starts_with("libclang-cpp")
    };
    directories().into_iter().find_map(|dir| {
        let mut names: Vec<String> = list(&dir).into_iter().filter(|n| is_libclang(n)).collect();
        names.sort();
        names.first().map(|name| dir.join(name))
    })
}

/// The headers of the compiler itself that go with libclang, such as `limits.h`.
pub(crate) fn headers() -> Option<PathBuf> {
    let library = library()?.canonicalize().ok()?;
    let version = version(&library)?.to_string();
    // A directory is named `14` or `14.0.6`.
    let fits = |name: &String| name.split('.').next() == Some(version.as_str());
    let llvm = format!("/usr/lib/llvm-{version}/lib/clang").into();
    let roots = [library.parent()?.join("clang"), llvm, PathBuf::from("/usr/lib/clang")];
    roots.into_iter().find_map(|root| {
        let names = list(&root).into_iter().filter(fits);
        let mut dirs = names.map(|name| root.join(name).join("include"));
        dirs.find(|dir| dir.join("limits.h").is_file())
    })
}

fn directories() -> Vec<PathBuf> {
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
pub(crate) fn version(path: &Path) -> Option<u32> {
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
pub(crate) fn version_to_install() -> Option<u32> {
    if let Some(version) = library().and_then(|path| version(&path)) {
        return Some(version);
    }
    let output = Command::new("apt-cache").args(["depends", "libclang-dev"]).output().ok()?;
    depended(&String::from_utf8_lossy(&output.stdout))
}

/// The number in `Depends: libclang-14-dev`.
fn depended(text: &str) -> Option<u32> {
    text.split_whitespace()
        .find_map(|word| word.strip_prefix("libclang-")?.strip_suffix("-dev")?.parse().ok())
}

fn list(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (path, expected) in [
            ("/nonexistent/llvm-14/lib/libclang.so.1", Some(14)),
            ("/nonexistent/libclang-19.so.19.1.7", Some(19)),
            ("/nonexistent/libclang.so", None),
        ] {
            assert_eq!(version(Path::new(path)), expected, "{path}");
        }
        assert_eq!(depended("libclang-dev\n  Depends: libclang-14-dev\n"), Some(14));
        assert_eq!(depended("N: Unable to locate package libclang-dev"), None);
    }
}
