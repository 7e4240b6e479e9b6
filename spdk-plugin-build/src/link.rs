//! How a program is linked with SPDK.

use std::path::{Path, PathBuf};

use crate::error::LinkError;
use crate::layout::{file_names, has_library};
use crate::parse::{Directive, Mode, ParseOptions, link_args, parse};
use crate::pkg_config;
use crate::spdk::Spdk;

/// Which of SPDK's libraries a program is linked with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Linkage {
    /// Archives where SPDK and DPDK have them, else shared libraries; the environment variable
    /// `SPDK_PLUGIN_LINK` (`static` or `shared`) decides otherwise.
    #[default]
    Auto,
    /// Archives, linked whole.
    Static,
    /// Shared libraries, found at run time where they lie now.
    Shared,
}

/// Libraries that register themselves in constructors, or may: never to be thinned out.
const WHOLE: &[&str] = &["spdk_*", "rte_*"];

/// What subsystems need of others; the `.pc` files do not say it in every version.
const SUBSYSTEM_NEEDS: &[(&str, &[&str])] = &[
    ("event_accel", &["event_iobuf"]),
    ("event_bdev", &["event_accel", "event_iobuf", "event_keyring", "event_sock", "event_vmd"]),
    ("event_iscsi", &["event_scsi", "event_sock"]),
    ("event_nbd", &["event_bdev"]),
    ("event_nvmf", &["event_bdev", "event_keyring", "event_sock"]),
    ("event_scsi", &["event_bdev"]),
    ("event_ublk", &["event_bdev"]),
    ("event_vfu_tgt", &["event_scsi", "event_fsdev"]),
    ("event_vhost", &["event_scsi"]),
    ("event_vhost_blk", &["event_bdev"]),
    ("event_vhost_scsi", &["event_scsi"]),
];

/// Never part of a program: mocks for SPDK's own unit tests, and the C++ reader of trace files.
const NOT_FOR_APPS: &[&str] = &["spdk_ut", "spdk_ut_mock", "spdk_trace_parser"];

/// What SPDK may need beyond itself, asked of the machine where no `.pc` file says it.
const OFTEN_NEEDED: &[&str] = &[
    "isal",
    "isal_crypto",
    "aio",
    "uuid",
    "ssl",
    "crypto",
    "numa",
    "fuse3",
    "ibverbs",
    "rdmacm",
    "keyutils",
    "uring",
];

impl Spdk {
    /// The linker's arguments for a program with the named SPDK libraries (`event_bdev` or
    /// `spdk_event_bdev`), with all that these depend on, the environment layer and DPDK.
    ///
    /// An SPDK without `.pc` files does not say what depends on what: there a program gets all of
    /// its libraries.
    pub fn link_args(&self, libs: &[&str], linkage: Linkage) -> Result<Vec<String>, LinkError> {
        let mode = self.mode(linkage)?;
        let full = |lib: &&str| match lib.starts_with("spdk_") {
            true => lib.to_string(),
            false => format!("spdk_{lib}"),
        };
        let names: Vec<String> = libs.iter().map(full).collect();
        let modules = self.modules();
        let known = |name: &String| match modules.is_empty() {
            true => self.lib_dirs().iter().any(|dir| has_library(dir, name)),
            false => modules.contains(name),
        };
        if let Some(name) = names.iter().find(|name| !known(name)) {
            let (prefix, version) = (self.prefix().to_path_buf(), self.version().clone());
            return Err(LinkError::UnknownLibrary { name: name.clone(), prefix, version });
        }
        self.args(names, &modules, mode)
    }

    /// The linker's arguments for a program with every library that `spdk_tgt` has: all subsystems,
    /// bdev modules and RPC methods.
    pub fn link_args_all(&self, linkage: Linkage) -> Result<Vec<String>, LinkError> {
        const STARTS: &[&str] =
            &["event", "bdev_", "accel_", "sock_", "keyring_", "scheduler_", "fsdev_"];
        let mode = self.mode(linkage)?;
        let modules = self.modules();
        let registers = |name: &&String| {
            let name = name.strip_prefix("spdk_").unwrap_or("");
            name.ends_with("_rpc") || STARTS.iter().any(|start| name.starts_with(start))
        };
        self.args(modules.iter().filter(registers).cloned().collect(), &modules, mode)
    }

    /// Settles what `Auto` means, and whether the libraries wanted are there.
    fn mode(&self, linkage: Linkage) -> Result<Mode, LinkError> {
        let linkage = match (linkage, std::env::var("SPDK_PLUGIN_LINK").as_deref()) {
            (Linkage::Auto, Ok("static")) => Linkage::Static,
            (Linkage::Auto, Ok("shared")) => Linkage::Shared,
            (Linkage::Auto, Ok("" | "auto") | Err(_)) => Linkage::Auto,
            (Linkage::Auto, Ok(other)) => return Err(LinkError::BadLinkage(other.to_owned())),
            (given, _) => given,
        };
        let (kind, mode, there) = match linkage {
            Linkage::Auto if self.has_static() => return Ok(Mode::Static),
            Linkage::Static => ("static", Mode::Static, self.has_static()),
            Linkage::Auto | Linkage::Shared => ("shared", Mode::Shared, self.has_shared()),
        };
        if there {
            return Ok(mode);
        }
        let (prefix, version) = (self.prefix().to_path_buf(), self.version().clone());
        Err(LinkError::NoSuchKind { kind, prefix, version })
    }

    /// The names of SPDK's `.pc` files.
    fn modules(&self) -> Vec<String> {
        let names = self.pkg_config_dirs().iter().flat_map(|dir| file_names(dir));
        let names = names.filter_map(|name| name.strip_suffix(".pc").map(str::to_owned));
        let mut names: Vec<String> = names.filter(|name| is_for_apps(name)).collect();
        names.retain(|name| name.starts_with("spdk_"));
        names.sort();
        names
    }

    fn args(
        &self,
        names: Vec<String>,
        modules: &[String],
        mode: Mode,
    ) -> Result<Vec<String>, LinkError> {
        let dirs = self.lib_dirs().iter().map(|dir| format!("'-L{}'", dir.display()));
        let mut line = dirs.collect::<Vec<_>>().join(" ");
        if modules.is_empty() {
            for name in self.everything(mode) {
                line += &format!(" -l{name}");
            }
        } else {
            line += " ";
            line += &self.ask_pkg_config(names, modules, mode)?;
        }
        let whole = if mode == Mode::Static { WHOLE } else { &[] };
        let exists = |path: &Path| path.is_file();
        let mut directives = parse(&line, &ParseOptions { mode, whole, exists: &exists });
        if mode == Mode::Shared {
            // All of them: in a built tree, ISA-L's libraries lie in a directory of their own.
            let dirs = directives.iter().filter_map(|directive| match directive {
                Directive::SearchDir(dir) => Some(Directive::RunPath(dir.clone())),
                _ => None,
            });
            directives.extend(dirs.collect::<Vec<_>>());
        }
        let mut args = link_args(&directives);
        let last: &[&str] = match mode {
            // rustc names the compiler's and the C library before this and forbids the driver to do
            // so after it: a linker that goes through the line once would not find what archives
            // need of them.
            Mode::Static => &["-lgcc", "-lc"],
            // SPDK's libraries do not say where those they need lie: only the older tag covers
            // these as well.
            Mode::Shared => &["-Wl,--disable-new-dtags"],
        };
        args.extend(last.iter().map(|arg| arg.to_string()));
        Ok(args)
    }

    fn ask_pkg_config(
        &self,
        mut names: Vec<String>,
        modules: &[String],
        mode: Mode,
    ) -> Result<String, LinkError> {
        let mut at = 0;
        while at < names.len() {
            let subsystem = names[at].strip_prefix("spdk_").unwrap_or("");
            let needs = SUBSYSTEM_NEEDS.iter().find(|(name, _)| *name == subsystem);
            for need in needs.map_or(&[][..], |(_, needs)| needs) {
                let need = format!("spdk_{need}");
                if modules.contains(&need) && !names.contains(&need) {
                    names.push(need);
                }
            }
            at += 1;
        }
        // The system's libraries last: they serve all the others.
        for always in ["spdk_event", "spdk_env_dpdk", "spdk_syslibs"] {
            if modules.iter().any(|module| module == always) {
                names.retain(|name| name != always);
                names.push(always.to_owned());
            }
        }
        let flags: &[&str] = match mode {
            Mode::Static => &["--libs", "--static"],
            Mode::Shared => &["--libs"],
        };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let answer = pkg_config::run(self.pkg_config_dirs(), flags, &names);
        answer.map_err(LinkError::PkgConfig)
    }

    /// For an SPDK without `.pc` files: all of its libraries, and those of the system's that SPDK
    /// may need.
    fn everything(&self, mode: Mode) -> Vec<String> {
        let suffix = if mode == Mode::Static { ".a" } else { ".so" };
        let names = self.lib_dirs().iter().flat_map(|dir| file_names(dir));
        let names =
            names.filter_map(|f| Some(f.strip_prefix("lib")?.strip_suffix(suffix)?.to_owned()));
        let mut names: Vec<String> = names.filter(|name| is_for_apps(name)).collect();
        names.retain(|name| name.starts_with("spdk_") || name.starts_with("rte_"));
        names.sort();
        let arch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        let mut dirs = self.lib_dirs().to_vec();
        dirs.extend([&arch, "/usr/lib64", "/usr/lib"].map(PathBuf::from));
        let there = |name: &&&str| dirs.iter().any(|dir| has_library(dir, name));
        names.extend(OFTEN_NEEDED.iter().filter(there).map(|name| name.to_string()));
        names.extend(["rt", "dl", "m", "pthread"].map(str::to_owned));
        names
    }
}

fn is_for_apps(name: &str) -> bool {
    !NOT_FOR_APPS.contains(&name)
}
