//! Describes a host: its program, plugins, cores, memory and configuration.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use spdk_plugin_build::Spdk;
use tempfile::TempDir;

use crate::cores::{Choice, Cores};
use crate::error::{Context, Error, Result};
use crate::host::{Host, Output};
use crate::memory::{Eal, Memory, interposer, preloadable};
use crate::{process, tools};

/// How long a program may take until its RPC server answers.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a program may take until it has its hugepages.
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A Unix socket's path ends here; SPDK 20.07 appends `.<pid>_config` to it.
const SOCKET_PATH_MAX: usize = 107 - ".1234567_config".len();

/// Describes a [`Host`] before it is started; made by [`Host::builder`].
#[derive(Clone, Debug)]
#[must_use = "a description starts nothing"]
pub struct HostBuilder {
    spdk: Spdk,
    program: PathBuf,
    plugins: Vec<PathBuf>,
    cores: Cores,
    mem_mb: Option<u32>,
    memory: Option<Memory>,
    pci: bool,
    bare: bool,
    wait_for_rpc: bool,
    config: Option<String>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    wrapper: Vec<OsString>,
    ready_timeout: Duration,
}

impl HostBuilder {
    pub(crate) fn new(spdk: &Spdk, program: &Path) -> Self {
        Self {
            spdk: spdk.clone(),
            program: program.into(),
            plugins: vec![],
            cores: Cores::Count(1),
            mem_mb: None,
            memory: None,
            pci: false,
            bare: false,
            wait_for_rpc: false,
            config: None,
            args: vec![],
            env: vec![],
            wrapper: vec![],
            ready_timeout: READY_TIMEOUT,
        }
    }

    /// Preloads a plugin; several are loaded in the order in which they are given.
    pub fn plugin(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugins.push(path.into());
        self
    }

    /// Preloads several plugins.
    pub fn plugins<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.plugins.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Runs on `count` cores (default: 1). Where this process may use fewer CPUs, the cores share them.
    pub fn cores(mut self, count: usize) -> Self {
        self.cores = Cores::Count(count);
        self
    }

    /// Runs on the cores of a mask or list in SPDK's notation, such as `0x3` or `[0,1]`.
    pub fn core_mask(mut self, mask: impl Into<String>) -> Self {
        self.cores = Cores::Mask(mask.into());
        self
    }

    /// Memory of the program in MiB (default: 1536 for the full targets, 1024 for others).
    pub fn mem_mb(mut self, megabytes: u32) -> Self {
        self.mem_mb = Some(megabytes);
        self
    }

    /// Asks for a kind of memory (default: [`Memory::detect`]).
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Lets the program see the machine's PCI devices, which it does not by default.
    pub fn pci(mut self, pci: bool) -> Self {
        self.pci = pci;
        self
    }

    /// Passes none of the options that SPDK's application framework knows, only [`args`](Self::args): for programs
    /// with a command line of their own, such as `blobcli`.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Initializes no subsystem before the RPC `framework_start_init`.
    ///
    /// Not together with a configuration: SPDK before 24.05 starts at once then.
    pub fn wait_for_rpc(mut self) -> Self {
        self.wait_for_rpc = true;
        self
    }

    /// Starts with this configuration: the text of a JSON file, or a [`Config`](crate::Config).
    ///
    /// The program ends if one of its calls fails.
    pub fn config(mut self, json: impl ToString) -> Self {
        self.config = Some(json.to_string());
        self
    }

    /// Appends an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Appends arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable of the program.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Has another command start the program, such as `ip netns exec <namespace>`. It is given the program and its
    /// arguments behind its own, and must become it: `exec` rather than `fork`.
    pub fn wrapper<A: Into<OsString>>(mut self, command: impl IntoIterator<Item = A>) -> Self {
        self.wrapper = command.into_iter().map(Into::into).collect();
        self
    }

    /// How long the program may take until its RPC server answers (default: 60 s).
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout;
        self
    }

    /// Starts the program and waits until its RPC server answers.
    pub fn start(self) -> Result<Host> {
        let timeout = self.ready_timeout;
        let mut host = self.spawn()?;
        host.wait_ready(timeout)?;
        Ok(host)
    }

    /// Runs a program that ends by itself. If it still runs after `timeout`, it is killed and that is an error.
    pub fn run(self, timeout: Duration) -> Result<Output> {
        self.spawn()?.output(timeout)
    }

    /// Starts the program without waiting.
    pub fn spawn(self) -> Result<Host> {
        let program = self.find_program()?;
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mem_mb = self.mem_mb.unwrap_or(match name.as_str() {
            "spdk_tgt" | "iscsi_tgt" => 1536,
            _ => 1024,
        });

        let dir = private_dir()?;
        let log = dir.path().join("log");
        let log = OpenOptions::new().create(true).append(true).open(&log);
        let log = log.context(|| format!("cannot write in {}", dir.path().display()))?;
        let errors = log.try_clone().context(|| "cannot copy a file descriptor".into())?;

        // Held until the free hugepages are counted and taken.
        let _lock = if self.memory == Some(Memory::NoHuge) { None } else { hugepage_lock()? };
        let memory = self.memory.unwrap_or_else(|| Memory::detect(mem_mb));
        let mut command = self.command(&program, memory, mem_mb, dir.path())?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = process::spawn(command);
        let child = child.context(|| format!("cannot start {}", program.display()))?;
        let wait_for_rpc = self.wait_for_rpc;
        let mut host = Host { name, child, dir, memory, wait_for_rpc };
        if memory == Memory::Huge && !self.bare {
            host.wait_memory(TAKE_TIMEOUT)?;
        }
        Ok(host)
    }

    fn find_program(&self) -> Result<PathBuf> {
        if self.program.components().count() > 1 {
            return Ok(self.program.clone());
        }
        let name = self.program.to_string_lossy();
        self.spdk.program(&name).ok_or_else(|| Error::NoProgram {
            program: name.into_owned(),
            version: self.spdk.version().to_string(),
            dir: self.spdk.prefix().into(),
        })
    }

    fn command(&self, program: &Path, memory: Memory, mem_mb: u32, dir: &Path) -> Result<Command> {
        let version = self.spdk.version();
        let (mask, lcores) = match self.cores.choose()? {
            Choice::Mask(mask) => (Some(mask), None),
            Choice::Lcores(list) => (None, Some(list)),
        };
        let eal = Eal::new(version, memory, mem_mb, lcores.as_deref());

        let preload = self.preload(&eal)?;
        let mut command = self.starter(program, &preload);
        if !self.bare {
            command.arg("-r").arg(dir.join("rpc.sock")).args(eal.args);
            // No core dumps of the program's whole memory.
            command.arg("--limit-coredump");
            // No trace file: 128 MB of locked shared memory, more than others than root may lock. 20.07 has one
            // always.
            let entries = if version.at_least(21, 1) { "0" } else { "1" };
            command.args(["--num-trace-entries", entries]);
            if let Some(mask) = mask {
                command.args(["-m", &mask]);
            }
            if !self.pci {
                command.arg("--no-pci");
            }
            if version.at_least(23, 1) {
                command.arg("--disable-cpumask-locks");
            }
            if self.wait_for_rpc {
                command.arg("--wait-for-rpc");
            }
            if let Some(config) = &self.config {
                let path = dir.join("config.json");
                fs::write(&path, config).context(|| format!("cannot write {}", path.display()))?;
                command.arg("--json").arg(path);
            }
        }
        command.args(&self.args);

        command.env("LD_LIBRARY_PATH", self.library_path());
        command.envs(eal.env).envs(self.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// What is to be preloaded.
    fn preload(&self, eal: &Eal) -> Result<String> {
        let mut preload = Vec::new();
        if eal.interposed {
            preload.push(interposer()?);
        }
        for plugin in &self.plugins {
            let found = plugin.canonicalize();
            preload.push(found.context(|| format!("cannot load plugin {}", plugin.display()))?);
        }
        let preload: Vec<&str> =
            preload.iter().map(|path| preloadable(path)).collect::<Result<_>>()?;
        Ok(preload.join(":"))
    }

    /// The command that starts the program. No other program than that may have a plugin preloaded.
    fn starter(&self, program: &Path, preload: &str) -> Command {
        let Some((wrapper, args)) = self.wrapper.split_first() else {
            let mut command = Command::new(program);
            match preload {
                "" => command.env_remove("LD_PRELOAD"),
                preload => command.env("LD_PRELOAD", preload),
            };
            return command;
        };
        let mut command = Command::new(wrapper);
        command.env_remove("LD_PRELOAD").args(args);
        command.arg("env").arg(format!("LD_PRELOAD={preload}")).arg(program);
        command
    }

    fn library_path(&self) -> OsString {
        let inherited = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let inherited = env::split_paths(&inherited).filter(|path| !path.as_os_str().is_empty());
        let dirs = self.spdk.lib_dirs().iter().cloned().chain(inherited);
        env::join_paths(dirs).unwrap_or_default()
    }
}

/// A directory for one host, short enough for the path of a socket.
fn private_dir() -> Result<TempDir> {
    let make = |base: &Path| {
        let mut builder = tempfile::Builder::new();
        builder.prefix("spdk-rig-").permissions(Permissions::from_mode(0o700));
        builder
            .tempdir_in(base)
            .context(|| format!("cannot make a directory in {}", base.display()))
    };
    let dir = make(&env::temp_dir())?;
    let fits = dir.path().join("rpc.sock").as_os_str().as_bytes().len() <= SOCKET_PATH_MAX;
    if fits { Ok(dir) } else { make(Path::new("/tmp")) }
}

/// One host at a time counts the free hugepages and takes its own; none on a machine without.
fn hugepage_lock() -> Result<Option<File>> {
    if Memory::detect(1) == Memory::NoHuge {
        return Ok(None);
    }
    tools::lock("hugepages.lock").map(Some)
}
