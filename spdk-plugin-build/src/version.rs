//! The SPDK version, read from `spdk/version.h`.

use std::fmt;

/// A version of SPDK, shown as SPDK writes it: `20.07`, `21.01.1`, `26.09-pre`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The year, two digits.
    pub major: u32,
    /// The month.
    pub minor: u32,
    /// The maintenance release, 0 for the first.
    pub patch: u32,
    /// What follows the numbers, such as `-pre`; empty for a release.
    pub suffix: String,
}

impl Version {
    /// Whether this is release `major.minor` or a later one. A `-pre` version counts as its
    /// release.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }

    /// Reads the text of `spdk/version.h`.
    pub(crate) fn from_header(text: &str) -> Option<Version> {
        let define = |name: &str| {
            text.lines().find_map(|line| {
                let mut words = line.split_whitespace();
                (words.next() == Some("#define") && words.next() == Some(name))
                    .then(|| words.next().unwrap_or(""))
            })
        };
        let number = |name| define(name)?.parse().ok();
        Some(Version {
            major: number("SPDK_VERSION_MAJOR")?,
            minor: number("SPDK_VERSION_MINOR")?,
            patch: number("SPDK_VERSION_PATCH")?,
            suffix: define("SPDK_VERSION_SUFFIX").unwrap_or("").trim_matches('"').to_owned(),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.major, self.minor)?;
        if self.patch != 0 {
            write!(f, ".{}", self.patch)?;
        }
        f.write_str(&self.suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(major: u32, minor: u32, patch: u32, suffix: &str) -> String {
        format!(
            "/**\n * Major version number (year of original release minus 2000).\n */\n\
             #define SPDK_VERSION_MAJOR\t{major}\n#define SPDK_VERSION_MINOR\t{minor}\n\
             #define SPDK_VERSION_PATCH\t{patch}\n#define SPDK_VERSION_SUFFIX\t\"{suffix}\"\n\
             #define SPDK_VERSION_MAJOR_STRING\tSPDK_VERSION_STRINGIFY(SPDK_VERSION_MAJOR)\n"
        )
    }

    #[test]
    fn reads_and_shows() {
        for (text, shown) in [
            (header(20, 7, 0, ""), "20.07"),
            (header(21, 1, 1, ""), "21.01.1"),
            (header(26, 9, 0, "-pre"), "26.09-pre"),
        ] {
            assert_eq!(Version::from_header(&text).unwrap().to_string(), shown);
        }
        assert_eq!(Version::from_header("#define SPDK_VERSION_MAJOR 20\n"), None);
        assert_eq!(Version::from_header("#define SPDK_VERSION_MAJOR x"), None);
    }

    #[test]
    fn compares_by_release() {
        let v = Version::from_header(&header(26, 9, 0, "-pre")).unwrap();
        assert!(v.at_least(20, 7) && v.at_least(26, 9) && v.at_least(25, 12));
        assert!(!v.at_least(26, 10) && !v.at_least(27, 1));
    }
}
