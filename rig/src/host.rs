//! One running SPDK program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use spdk_plugin_build::Spdk;
use tempfile::TempDir;

use crate::builder::HostBuilder;
use crate::error::{Context, Error, Result};
use crate::memory::{Memory, hugetlbfs};
use crate::process;
use crate::rpc::{RpcClient, RpcError};

/// First and last lines of the log that an error shows: a usage text ends in nothing but options.
const HEAD: usize = 10;
const TAIL: usize = 40;
/// How long a host that is dropped may take to end by itself.
const DROP_GRACE: Duration = Duration::from_millis(500);
/// How long a host may take to shut down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
/// How long an RPC's reply may take.
const RPC_TIMEOUT: Duration = Duration::from_secs(30);

/// An SPDK program with a private socket and log, killed when it is dropped or when this process dies.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use spdk_plugin_rig::{Host, Spdk};
///
/// let spdk = Spdk::find()?;
/// let mut host = Host::builder(&spdk, "spdk_tgt").plugin("/path/to/libplugin.so").start()?;
/// let bdevs: serde_json::Value = host.call("bdev_get_bdevs", ())?;
/// host.shutdown()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Host {
    pub(crate) name: String,
    pub(crate) child: Child,
    pub(crate) dir: TempDir,
    pub(crate) memory: Memory,
    pub(crate) wait_for_rpc: bool,
}

/// How a program ended that ran to its end.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// All it wrote to standard output and standard error.
    pub log: String,
}

impl Host {
    /// Describes a host that runs `program`: a name such as `spdk_tgt`, or the path of any SPDK application.
    pub fn builder(spdk: &Spdk, program: impl AsRef<Path>) -> HostBuilder {
        HostBuilder::new(spdk, program.as_ref())
    }

    /// Path of its RPC socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("rpc.sock")
    }

    /// Its private directory (0700), removed with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The kind of memory it runs in.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Opens a new connection to its RPC server.
    pub fn rpc(&self) -> Result<RpcClient, RpcError> {
        RpcClient::connect(self.socket(), RPC_TIMEOUT)
    }

    /// Makes one call on a connection of its own; see [`RpcClient::call`].
    pub fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T, RpcError> {
        self.rpc()?.call(method, params)
    }

    /// All it wrote so far to standard output and standard error.
    pub fn log(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Waits until the log holds `text`, for as long as the program runs and `timeout` has not passed.
    pub fn wait_log(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            // In this order: what a program wrote last is seen after its end.
            let ended = self.try_wait()?;
            if self.log().contains(text) {
                return Ok(());
            }
            if let Some(status) = ended {
                return Err(self.exited(status));
            }
            if Instant::now() >= deadline {
                let what = format!("did not write '{text}' within {timeout:?}");
                return Err(Error::Output {
                    program: self.name.clone(),
                    what,
                    log: self.excerpt(),
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end. If it still runs after `timeout`, it is killed and that is an error.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let waited = process::wait(&mut self.child, timeout);
        match waited.context(|| format!("cannot wait for {}", self.name))? {
            Some(status) => Ok(status),
            None => {
                self.kill()?;
                Err(self.hung("did not end", timeout))
            }
        }
    }

    /// Sends SIGTERM without waiting.
    pub fn terminate(&mut self) -> Result<()> {
        process::terminate(&mut self.child).context(|| format!("cannot end {}", self.name))
    }

    /// Ends it with SIGTERM. That it fails, crashes or must be killed on the way out is an error.
    pub fn shutdown(&mut self) -> Result<()> {
        let stopped = process::stop(&mut self.child, SHUTDOWN_GRACE);
        let (status, killed) = stopped.context(|| format!("cannot end {}", self.name))?;
        match status {
            _ if killed => Err(self.hung("did not shut down", SHUTDOWN_GRACE)),
            status if !status.success() => Err(self.exited(status)),
            _ => Ok(()),
        }
    }

    /// Kills and reaps it.
    pub fn kill(&mut self) -> Result<()> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).context(|| format!("cannot kill {}", self.name))
    }

    /// Waits until its RPC server answers: in the startup state if it was told to wait for RPCs, when it is fully
    /// initialized otherwise.
    pub(crate) fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        let method = if self.wait_for_rpc { "rpc_get_methods" } else { "framework_wait_init" };
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                return Err(self.exited(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.kill()?;
                return Err(self.hung("did not answer on its RPC socket", timeout));
            }
            let client = RpcClient::connect(self.socket(), left);
            match client.and_then(|mut client| client.call::<Value>(method, ())) {
                Ok(_) => return Ok(()),
                Err(RpcError::Io { .. } | RpcError::Timeout { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it took its hugepages, or ended without.
    pub(crate) fn wait_memory(&mut self, timeout: Duration) -> Result<()> {
        match self.wait_log("Total cores available", timeout) {
            Err(Error::Io { what, source }) => Err(Error::Io { what, source }),
            _ => Ok(()),
        }
    }

    pub(crate) fn output(&mut self, timeout: Duration) -> Result<Output> {
        let status = self.wait_exit(timeout)?;
        Ok(Output { status, log: self.log() })
    }

    /// As [`output`](Self::output), but a line with `mark` ends it with an error: it would hang.
    pub(crate) fn output_without(&mut self, mark: &str, timeout: Duration) -> Result<Output> {
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline && self.try_wait()?.is_none() {
            if let Some(line) = self.log().lines().find(|line| line.contains(mark)) {
                self.kill()?;
                return Err(self.bad_output(line.trim()));
            }
            // Seldom: a measurement is under way.
            thread::sleep(Duration::from_millis(50));
        }
        self.output(Duration::ZERO)
    }

    /// An error about what it wrote.
    pub(crate) fn bad_output(&self, what: impl Into<String>) -> Error {
        Error::Output { program: self.name.clone(), what: what.into(), log: self.excerpt() }
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context(|| format!("cannot wait for {}", self.name))
    }

    fn exited(&self, status: ExitStatus) -> Error {
        Error::Exited { program: self.name.clone(), status, log: self.excerpt() }
    }

    fn hung(&self, what: &'static str, waited: Duration) -> Error {
        Error::Hung { program: self.name.clone(), what, waited, log: self.excerpt() }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn excerpt(&self) -> String {
        shorten(&self.log())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A panicking test waits for nothing.
        let grace = if thread::panicking() { Duration::ZERO } else { DROP_GRACE };
        let stopped = process::stop(&mut self.child, grace);
        if thread::panicking() {
            let end =
                stopped.map_or_else(|error| error.to_string(), |(status, _)| status.to_string());
            eprintln!("---- log of {} (pid {}, {end}) ----\n{}", self.name, self.pid(), self.log());
        }
        remove_leftovers(self.pid());
    }
}

fn shorten(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let indent =
        |lines: &[&str]| lines.iter().map(|line| format!("    {line}\n")).collect::<String>();
    match lines.len().checked_sub(HEAD + TAIL) {
        None | Some(0) => indent(&lines),
        Some(left_out) => {
            let (head, tail) = (&lines[..HEAD], &lines[HEAD + left_out..]);
            format!("{}    [{left_out} lines left out]\n{}", indent(head), indent(tail))
        }
    }
}

/// Removes what SPDK and DPDK name after a process id and a killed process leaves behind.
fn remove_leftovers(pid: u32) {
    let trace = format!("_trace.pid{pid}");
    remove_matching(Path::new("/dev/shm"), |name| name.ends_with(&trace));
    let pages = format!("spdk_pid{pid}map_");
    for dir in hugetlbfs() {
        remove_matching(&dir, |name| name.starts_with(&pages));
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    for base in runtime.into_iter().chain(["/var/run".into(), "/tmp".into()]) {
        let _ = fs::remove_dir_all(base.join("dpdk").join(format!("spdk_pid{pid}")));
    }
}

fn remove_matching(dir: &Path, matches: impl Fn(&str) -> bool) {
    // Best effort: what cannot be listed or removed is not ours.
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(&matches)) {
        let _: io::Result<()> = fs::remove_file(entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_shortened_in_the_middle() {
        let log: String = (1..=60).map(|i| format!("{i}\n")).collect();
        let short = shorten(&log);
        assert_eq!(short.lines().count(), HEAD + 1 + TAIL);
        assert!(short.starts_with("    1\n") && short.ends_with("    60\n"));
        assert!(short.contains("    10\n    [10 lines left out]\n    21\n"), "{short}");
        assert_eq!(shorten("a\nb"), "    a\n    b\n");
    }
}
