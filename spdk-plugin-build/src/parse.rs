//! Reads the link line that pkg-config prints, and writes the one the final artefact needs.
//!
//! SPDK and DPDK register their modules in constructors, so their archives must be linked whole; a
//! `-l` given to cargo would lose both the order and the `--whole-archive` regions. [`parse`] keeps
//! them.

use std::path::{Component, Path, PathBuf};

/// Which kind of library to take where both are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Archives.
    Static,
    /// Shared libraries.
    Shared,
}

/// One thing to tell the linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// `-L`: where to look for libraries.
    SearchDir(PathBuf),
    /// An archive, by its path.
    Archive {
        /// Where it lies.
        path: PathBuf,
        /// Whether all of its objects are wanted.
        whole: bool,
    },
    /// `-l`: a library the linker finds.
    Library {
        /// Its name as in `-lNAME`; `:FILE` for an exact file name.
        name: String,
        /// Whether it stood in a whole-archive region.
        whole: bool,
    },
    /// Any other file, such as a shared library given by its path.
    File(PathBuf),
    /// A directory the loader searches at run time.
    RunPath(PathBuf),
    /// Anything else, word for word.
    Flag(String),
}

impl Directive {
    fn whole(&self) -> bool {
        matches!(
            self,
            Directive::Archive { whole: true, .. } | Directive::Library { whole: true, .. }
        )
    }
}

/// How [`parse`] decides.
#[derive(Clone, Copy)]
pub struct ParseOptions<'a> {
    /// The kind of library wanted.
    pub mode: Mode,
    /// Names of libraries (without `lib`) to link whole wherever they stand; a trailing `*` matches
    /// any rest.
    pub whole: &'a [&'a str],
    /// Whether a file exists.
    pub exists: &'a dyn Fn(&Path) -> bool,
}

/// Reads the output of `pkg-config --libs` into directives, in order and without repetitions.
///
/// In [`Mode::Static`] a `-l` becomes the archive of that name where one lies in a `-L` directory.
/// The linker's own directories (`/usr/lib`, `/lib`...) are left out of the result, and archives in
/// them are used only for libraries that are linked whole: everything else of the system stays
/// shared.
pub fn parse(text: &str, options: &ParseOptions<'_>) -> Vec<Directive> {
    let words = linker_words(text);
    let dirs: Vec<PathBuf> =
        words.iter().filter_map(|word| word.strip_prefix("-L").map(clean)).collect();
    let mut out = Directives::default();
    let mut region = false;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if let Some(dir) = word.strip_prefix("-L") {
            let dir = clean(dir);
            if !is_system_root(&dir) {
                out.push(Directive::SearchDir(dir));
            }
        } else if let Some(name) = word.strip_prefix("-l") {
            out.push(library(name, region, &dirs, options));
        } else if word == "--whole-archive" || word == "--no-whole-archive" {
            region = word == "--whole-archive";
        } else if let Some(dir) = word.strip_prefix("-rpath=") {
            out.push(Directive::RunPath(clean(dir)));
        } else if word == "-rpath" {
            if let Some(dir) = words.next() {
                out.push(Directive::RunPath(clean(&dir)));
            }
        } else if word == "-rpath-link" {
            words.next();
        } else if word.starts_with("-rpath-link=")
            || word == "--as-needed"
            || word == "--no-as-needed"
        {
            // The run paths serve at link time too, and link_args() says what is needed.
        } else if word.starts_with('-') {
            out.push(Directive::Flag(word));
        } else if word.ends_with(".a") {
            let path = clean(&word);
            let whole = region || is_forced(archive_name(&path), options);
            out.push(Directive::Archive { path, whole });
        } else {
            out.push(Directive::File(clean(&word)));
        }
    }
    out.0
}

/// What the C compiler driver gets for `directives`: whole archives first, for their constructors
/// and so that whatever they need may follow in any order; nothing is dropped as unneeded.
pub fn link_args(directives: &[Directive]) -> Vec<String> {
    let show = |path: &Path| path.display().to_string();
    let mut args = Vec::new();
    for directive in directives {
        if let Directive::SearchDir(dir) = directive {
            args.push(format!("-L{}", show(dir)));
        }
    }
    args.push("-Wl,--push-state,--no-as-needed".to_owned());
    for whole in [true, false] {
        let wanted = directives.iter().filter(|directive| directive.whole() == whole);
        let group: Vec<String> = wanted
            .filter_map(|directive| match directive {
                Directive::SearchDir(_) => None,
                Directive::Archive { path, .. } | Directive::File(path) => Some(show(path)),
                Directive::Library { name, .. } => Some(format!("-l{name}")),
                Directive::RunPath(dir) => Some(format!("-Wl,-rpath,{}", show(dir))),
                Directive::Flag(flag) => Some(flag.clone()),
            })
            .collect();
        if whole && !group.is_empty() {
            args.push("-Wl,--whole-archive".to_owned());
            args.extend(group);
            args.push("-Wl,--no-whole-archive".to_owned());
        } else {
            args.extend(group);
        }
    }
    args.push("-Wl,--pop-state".to_owned());
    args
}

/// The directives so far. An archive linked whole twice would define everything twice, so
/// repetitions are merged.
#[derive(Default)]
struct Directives(Vec<Directive>);

impl Directives {
    fn push(&mut self, new: Directive) {
        let same = self.0.iter().position(|old| match (old, &new) {
            (Directive::Archive { path: a, .. }, Directive::Archive { path: b, .. }) => a == b,
            (Directive::Library { name: a, whole, .. }, Directive::Library { name: b, .. }) => {
                a == b && *whole
            }
            // A switch acts on what follows it, and a library may follow two.
            (Directive::Flag(_) | Directive::Library { .. }, _) => false,
            (old, new) => old == new,
        });
        let Some(at) = same else { return self.0.push(new) };
        if new.whole() {
            self.0[at] = new;
        } else if !self.0[at].whole() && matches!(new, Directive::Archive { .. }) {
            // Where order matters, the last place serves all that stand before it.
            self.0.remove(at);
            self.0.push(new);
        }
    }
}

fn library(name: &str, region: bool, dirs: &[PathBuf], options: &ParseOptions<'_>) -> Directive {
    let exact = name.strip_prefix(':');
    let plain = exact.map_or(name, |file| archive_name(Path::new(file)));
    let whole = region || is_forced(plain, options);
    let file = match exact {
        Some(file) if file.ends_with(".a") => Some(file.to_owned()),
        Some(_) => None,
        None => (options.mode == Mode::Static).then(|| format!("lib{name}.a")),
    };
    let archive = file.and_then(|file| {
        dirs.iter()
            .filter(|dir| whole || exact.is_some() || !is_system_root(dir))
            .map(|dir| dir.join(&file))
            .find(|path| (options.exists)(path))
    });
    match archive {
        Some(path) => Directive::Archive { path, whole },
        None => Directive::Library { name: name.to_owned(), whole },
    }
}

fn is_forced(name: &str, options: &ParseOptions<'_>) -> bool {
    options.whole.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *pattern,
    })
}

/// `foo` of `/x/libfoo.a`.
fn archive_name(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let name = name.strip_suffix(".a").unwrap_or(name);
    name.strip_prefix("lib").unwrap_or(name)
}

/// Resolves `.` and `..` by their names alone: relocatable `.pc` files write
/// `DIR/lib/pkgconfig/../../lib`.
fn clean(path: impl AsRef<Path>) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.as_ref().components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some_and(|name| name != "..") => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Whether the linker searches `dir` by itself. Naming such a directory would let its libraries win
/// over those of a prefix that stands later on the line.
pub(crate) fn is_system_root(dir: &Path) -> bool {
    let dir = clean(dir);
    let Ok(below) = dir.strip_prefix("/usr").or_else(|_| dir.strip_prefix("/")) else {
        return false;
    };
    let parts: Vec<&str> = below.iter().filter_map(|part| part.to_str()).collect();
    match parts[..] {
        ["lib" | "lib32" | "lib64" | "libx32"] => true,
        ["lib", multiarch] => multiarch.split('-').count() >= 3 && multiarch.contains("linux"),
        _ => false,
    }
}

/// Splits as a shell does: blanks, quotes and backslashes.
pub(crate) fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The line as the linker sees it: `-Wl,a,b` and `-Xlinker a` taken apart, `-L dir` and `-l name`
/// joined.
fn linker_words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut words = split_words(text).into_iter();
    while let Some(word) = words.next() {
        if let Some(list) = word.strip_prefix("-Wl,") {
            linker_switches(list.split(','), &mut out);
        } else if word == "-Xlinker" {
            linker_switches(words.next().as_deref().into_iter(), &mut out);
        } else if word == "-L" || word == "-l" {
            out.extend(words.next().map(|rest| word + &rest));
        } else {
            out.push(word);
        }
    }
    out
}

/// One spelling for the switches that [`parse`] looks at; the others stay the linker's, with their
/// arguments.
fn linker_switches<'a>(items: impl Iterator<Item = &'a str>, out: &mut Vec<String>) {
    let mut foreign = None;
    for item in items {
        let name = item.trim_start_matches('-');
        let known = match name {
            _ if item.starts_with("-L") || item.starts_with("-l") => Some(item.to_owned()),
            "whole-archive" | "no-whole-archive" | "as-needed" | "no-as-needed" => {
                Some(format!("--{name}"))
            }
            "R" => Some("-rpath".to_owned()),
            _ if name.starts_with("rpath") => Some(format!("-{name}")),
            // The argument of a switch before it: the directory of `-rpath,DIR`, or an archive.
            _ if !item.starts_with('-') && foreign.is_none() => Some(item.to_owned()),
            _ => None,
        };
        match (known, foreign.as_mut()) {
            (Some(word), _) => {
                out.extend(foreign.take());
                out.push(word);
            }
            (None, Some(switch)) if !item.starts_with('-') => {
                let switch: &mut String = switch;
                switch.push(',');
                switch.push_str(item);
            }
            (None, _) => {
                out.extend(foreign.replace(format!("-Wl,{item}")));
            }
        }
    }
    out.extend(foreign);
}
