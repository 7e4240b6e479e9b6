//! The ABI record: which SPDK this artefact was built against, and whether the host has that one.
//!
//! The record is text in a section of its own, `.spdk_plugin_abi`: the release, then the sonames of its
//! libraries. A host that has SPDK linked in statically tells no sonames, and is taken at its word.

use std::ffi::c_void;
use std::ptr;

use spdk_plugin_sys as sys;

/// The record's length in bytes; what is not text is NUL.
pub const ABI_LEN: usize = 8192;

/// The record of this build.
pub const fn abi_record() -> [u8; ABI_LEN] {
    let mut record = [0; ABI_LEN];
    let mut at = append(&mut record, 0, sys::BUILT_AGAINST);
    let mut i = 0;
    while i < sys::BUILT_SONAMES.len() {
        at = append(&mut record, at, " ");
        at = append(&mut record, at, sys::BUILT_SONAMES[i]);
        i += 1;
    }
    record
}

const fn append(record: &mut [u8; ABI_LEN], at: usize, text: &str) -> usize {
    let text = text.as_bytes();
    let mut i = 0;
    while i < text.len() {
        record[at + i] = text[i];
        i += 1;
    }
    at + text.len()
}

/// Compares the record with the libraries that the process has loaded.
pub(crate) fn check(record: &'static [u8; ABI_LEN]) -> Result<(), String> {
    // SAFETY: plain bytes. Read as they are in the file, which may not be what the compiler saw.
    let record = unsafe { ptr::read_volatile(record) };
    let text = String::from_utf8_lossy(&record);
    let mut words = text.trim_end_matches('\0').split(' ');
    let built = words.next().unwrap_or("?");
    let sonames: Vec<&str> = words.collect();
    compare(built, &sonames, &loaded().sonames(), || {
        loaded().release().unwrap_or_else(|| "another release".into())
    })
}

/// The first library of which the host has another version than was built against.
fn compare(
    built: &str,
    sonames: &[&str],
    loaded: &[String],
    release: impl FnOnce() -> String,
) -> Result<(), String> {
    let differs = |soname: &&&str| {
        let stem = stem(soname);
        let host = loaded.iter().find(|host| self::stem(host) == stem)?;
        (!compatible(soname, host)).then_some((soname.to_string(), host.clone()))
    };
    let Some((ours, theirs)) = sonames.iter().find_map(|soname| differs(&soname)) else {
        return Ok(());
    };
    let host = release();
    Err(format!(
        "it was built against SPDK {built} ({ours}), and the program runs {host} ({theirs}); build it \
         again with SPDK_DIR set to the program's SPDK"
    ))
}

/// `libspdk_bdev` of `libspdk_bdev.so.3.0`.
fn stem(soname: &str) -> &str {
    soname.split(".so.").next().unwrap_or(soname)
}

/// Same major, and a minor that has all that ours has.
fn compatible(ours: &str, theirs: &str) -> bool {
    let numbers = |soname: &str| {
        let version = soname.split(".so.").nth(1)?;
        let mut parts = version.split('.');
        let major: u32 = parts.next()?.parse().ok()?;
        Some((major, parts.next().and_then(|minor| minor.parse::<u32>().ok()).unwrap_or(0)))
    };
    match (numbers(ours), numbers(theirs)) {
        (Some((major, minor)), Some((host_major, host_minor))) => {
            major == host_major && minor <= host_minor
        }
        _ => ours == theirs,
    }
}

/// The libraries of the process.
struct Loaded(Vec<Library>);

struct Library {
    path: String,
    /// The readable parts in memory.
    segments: Vec<(usize, usize)>,
}

fn loaded() -> Loaded {
    unsafe extern "C" fn each(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        libraries: *mut c_void,
    ) -> i32 {
        // SAFETY: the loader passes a valid description, and `loaded` its vector.
        let (info, libraries) = unsafe { (&*info, &mut *libraries.cast::<Vec<Library>>()) };
        let headers = if info.dlpi_phdr.is_null() {
            &[]
        } else {
            // SAFETY: the loader says how many there are.
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) }
        };
        let segments = headers
            .iter()
            .filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_R != 0)
            .map(|h| ((info.dlpi_addr + h.p_vaddr) as usize, h.p_filesz as usize))
            .collect();
        libraries.push(Library { path: super::c_text(info.dlpi_name), segments });
        0
    }
    let mut libraries: Vec<Library> = Vec::new();
    // SAFETY: `each` gets the vector, which lives through the call.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut libraries).cast()) };
    Loaded(libraries)
}

impl Loaded {
    fn sonames(&self) -> Vec<String> {
        let names = self.0.iter().filter_map(|library| {
            // The loader knows the file that it opened, which may be behind the soname's link.
            let name = library.path.rsplit('/').next()?;
            (name.starts_with("libspdk_") && name.contains(".so.")).then(|| name.to_owned())
        });
        names.collect()
    }

    /// The release that the host's app framework names when it starts.
    fn release(&self) -> Option<String> {
        const MARK: &[u8] = b"SPDK v";
        let event = self.0.iter().find(|library| library.path.contains("libspdk_event.so"))?;
        event.segments.iter().find_map(|&(start, len)| {
            // SAFETY: a readable segment of a library that is loaded.
            let bytes: &[u8] =
                unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance(start), len) };
            let at = bytes.windows(MARK.len()).position(|window| window == MARK)?;
            let text = &bytes[at + MARK.len()..];
            let end =
                text.iter().position(|b| !(b.is_ascii_alphanumeric() || b".-".contains(b)))?;
            Some(format!("SPDK {}", String::from_utf8_lossy(&text[..end])))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{ABI_LEN, abi_record, compare};

    const OURS: &[&str] = &["libspdk_bdev.so.3.0", "libspdk_thread.so.3.1"];

    fn compare_with(loaded: &[&str]) -> Result<(), String> {
        let loaded: Vec<String> = loaded.iter().map(|s| (*s).to_owned()).collect();
        compare("20.07", OURS, &loaded, || "SPDK 26.09".into())
    }

    #[test]
    fn the_record_tells_the_build() {
        let record: &[u8; ABI_LEN] = &abi_record();
        assert!(record.starts_with(spdk_plugin_sys::BUILT_AGAINST.as_bytes()));
        assert_eq!(record[ABI_LEN - 1], 0);
    }

    #[test]
    fn the_same_and_a_later_minor_pass() {
        compare_with(&["libspdk_bdev.so.3.0", "libspdk_thread.so.3.1"]).unwrap();
        compare_with(&["libspdk_bdev.so.3.4", "libc.so.6"]).unwrap();
        compare_with(&[]).unwrap();
    }

    #[test]
    fn another_major_or_an_older_minor_is_refused_by_name() {
        let error = compare_with(&["libspdk_bdev.so.20.0"]).unwrap_err();
        for part in ["20.07", "libspdk_bdev.so.3.0", "26.09", "libspdk_bdev.so.20.0", "SPDK_DIR"] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
        compare_with(&["libspdk_thread.so.3.0"]).unwrap_err();
    }
}
