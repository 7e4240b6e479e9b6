//! Reads apt's sources for the Debian mirrors this machine uses.

use std::fs;
use std::path::Path;

/// Names a mirror of Debian's archive, for machines whose own sources have none.
const MIRROR: &str = "DEBIAN_MIRROR";
const KEYRINGS: &[&str] = &[
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];
/// Suites of the archive itself, other than by the code name of a release.
const SUITES: &[&str] = &["stable", "oldstable", "oldoldstable", "testing", "unstable", "sid"];
const RELEASES: &[&str] = &["bullseye", "bookworm", "trixie", "forky", "duke"];

/// A copy of Debian's archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) uri: String,
    /// As apt writes it: a path, or a key block of several lines.
    pub(crate) signed_by: Option<String>,
}

/// The mirrors apt is told to use, most likely first, and the named one at the end.
pub(crate) fn configured_mirrors() -> Vec<Mirror> {
    let mut entries = parse_list(&read(Path::new("/etc/apt/sources.list")));
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut parts: Vec<_> = parts.map(|entry| entry.path()).collect();
    parts.sort();
    for part in parts {
        match part.extension().and_then(|extension| extension.to_str()) {
            Some("list") => entries.extend(parse_list(&read(&part))),
            Some("sources") => entries.extend(parse_stanzas(&read(&part))),
            _ => {}
        }
    }
    let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file());
    let signed_by = keyring.map(|path| path.to_string());
    let named = std::env::var(MIRROR).ok().map(|uri| Mirror { uri, signed_by });
    mirrors(&entries, named)
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// One source: what apt's two formats have in common.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

impl Entry {
    /// Whether this may be the archive of Debian itself, not its updates or somebody's own packages.
    fn is_archive(&self) -> bool {
        let known = |suite: &String| [SUITES, RELEASES].concat().contains(&suite.as_str());
        self.suites.iter().any(known) && self.components.iter().any(|component| component == "main")
    }
}

fn mirrors(entries: &[Entry], named: Option<Mirror>) -> Vec<Mirror> {
    let archives = entries.iter().filter(|entry| entry.is_archive());
    let mut mirrors: Vec<Mirror> = archives
        .flat_map(|entry| {
            let signed_by = &entry.signed_by;
            entry.uris.iter().map(|uri| Mirror { uri: uri.clone(), signed_by: signed_by.clone() })
        })
        .filter(|mirror| !mirror.uri.starts_with("cdrom:"))
        .collect();
    // Others' archives may have a suite and a component of the same names.
    mirrors.sort_by_key(|mirror| !mirror.uri.contains("debian"));
    mirrors.extend(named);
    let mut distinct: Vec<Mirror> = Vec::new();
    for mirror in mirrors {
        if !distinct.contains(&mirror) {
            distinct.push(mirror);
        }
    }
    distinct
}

/// The format of one line: `deb [option=value ...] uri suite component ...`.
fn parse_list(text: &str) -> Vec<Entry> {
    text.lines().filter_map(|line| parse_line(line.split('#').next()?)).collect()
}

fn parse_line(line: &str) -> Option<Entry> {
    let line = line.trim();
    let line = line.strip_prefix("deb-src").or_else(|| line.strip_prefix("deb"))?;
    let (options, rest) = match line.trim_start().strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", line.strip_prefix([' ', '\t'])?),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    Some(Entry {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: signed_by.map(str::to_owned),
    })
}

/// The format of stanzas, deb822.
fn parse_stanzas(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(stanza(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn stanza(fields: &[(String, String)]) -> Option<Entry> {
    let field =
        |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let words = |name| field(name).unwrap_or("").split_whitespace().map(str::to_owned).collect();
    if field("enabled").is_some_and(|value| matches!(value, "no" | "false" | "0" | "off")) {
        return None;
    }
    field("types")?;
    Some(Entry {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: &str = "http://named.example/debian";

    fn named() -> Mirror {
        Mirror { uri: NAMED.into(), signed_by: Some("/keyring".into()) }
    }

    fn uris(entries: &[Entry]) -> Vec<String> {
        mirrors(entries, Some(named())).into_iter().map(|mirror| mirror.uri).collect()
    }

    #[test]
    fn one_line_format() {
        let text = "\
            # deb http://commented.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/a.gpg] https://near.example/debian/ bookworm main contrib # note\n\
            deb http://near.example/debian-security bookworm-security main\n\
            deb-src\thttp://src.example/debian stable main\n\
            deb https://packages.example/apt cloud-bookworm main\n\
            deb cdrom:[Debian 12]/ bookworm main\n\
            debris\n\
            deb\n";
        let entries = parse_list(text);
        assert_eq!(entries[0].signed_by.as_deref(), Some("/a.gpg"));
        assert_eq!(entries[0].components, ["main", "contrib"]);
        let expected = ["https://near.example/debian/", "http://src.example/debian", NAMED];
        assert_eq!(uris(&entries), expected);
    }

    #[test]
    fn stanza_format() {
        let text = "\
            Types: deb\n\
            # a note in the middle\n\
            URIs: http://near.example/debian http://far.example/debian\n\
            Suites: bookworm bookworm-updates\n\
            Components: main\n\
            Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n\
            \n\
            Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n\
            \n\
            types: deb\nuris: http://near.example/debian-security\nsuites: bookworm-security\ncomponents: main\n";
        let entries = parse_stanzas(text);
        assert_eq!(entries.len(), 2);
        let key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc";
        assert_eq!(entries[0].signed_by.as_deref(), Some(key));
        assert_eq!(
            uris(&entries),
            ["http://near.example/debian", "http://far.example/debian", NAMED]
        );
    }

    #[test]
    fn others_archives_come_after_debians() {
        let text = "deb https://apt.example bookworm main\ndeb http://mirror.example/debian/ bookworm main\n";
        assert_eq!(
            uris(&parse_list(text)),
            ["http://mirror.example/debian/", "https://apt.example", NAMED]
        );
    }

    #[test]
    fn nothing_configured() {
        assert_eq!(mirrors(&[], Some(named())), [named()]);
        assert!(parse_stanzas("nonsense\n without a field\n").is_empty());
    }
}
