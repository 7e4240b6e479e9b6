//! Runs SPDK's `bdevperf`: workloads, verification and their figures.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use spdk_plugin_build::Spdk;

use crate::builder::HostBuilder;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::perf::{Job, Perf};
use crate::rpc::RpcError;

/// What a run may take beyond its own seconds: to start, to allocate, to stop.
const OVERHEAD: Duration = Duration::from_secs(60);

/// 20.07 waits for ever after this line.
const NO_BDEV: &str = "Unable to find bdev";

/// A run of `bdevperf`, to be described and started.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use spdk_plugin_rig::{Bdevperf, Config, Spdk};
///
/// let spdk = Spdk::find()?;
/// let config = Config::new().malloc("Malloc0", 65536, 512);
/// let perf = Bdevperf::new(&spdk, "verify").config(config).queue_depth(128).seconds(10).run()?;
/// println!("{:.0} IOPS, {:.1} us", perf.iops, perf.latency_us);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a description runs nothing"]
pub struct Bdevperf {
    host: HostBuilder,
    workload: String,
    queue_depth: u32,
    io_size: u32,
    seconds: u32,
    bdev: Option<String>,
    zcopy_off: Option<&'static str>,
    zcopy_on: Option<&'static str>,
    zcopy: bool,
}

impl Bdevperf {
    /// Describes a run of `workload` (`randread`, `verify`, `write_zeroes`...) with SPDK's `bdevperf`: 4 KiB at queue
    /// depth 32 for a second on one core, on every unclaimed bdev.
    pub fn new(spdk: &Spdk, workload: &str) -> Self {
        // 20.07 uses zero-copy unless told otherwise, later releases only if told so.
        let later = spdk.version().at_least(20, 10);
        Self {
            host: Host::builder(spdk, "bdevperf"),
            workload: workload.into(),
            queue_depth: 32,
            io_size: 4096,
            seconds: 1,
            bdev: None,
            zcopy_off: (!later).then_some("-x"),
            zcopy_on: later.then_some("-Z"),
            zcopy: false,
        }
    }

    /// Preloads a plugin.
    pub fn plugin(mut self, path: impl Into<PathBuf>) -> Self {
        self.host = self.host.plugin(path);
        self
    }

    /// Preloads several plugins.
    pub fn plugins<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.host = self.host.plugins(paths);
        self
    }

    /// Starts with this configuration; see [`HostBuilder::config`].
    pub fn config(mut self, json: impl ToString) -> Self {
        self.host = self.host.config(json);
        self
    }

    /// Changes the host in other ways: cores, memory, environment.
    pub fn host(mut self, change: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        self.host = change(self.host);
        self
    }

    /// Runs on `count` cores; see [`HostBuilder::cores`]. One bdev is driven from one core unless
    /// [`every_core`](Self::every_core) is asked for.
    pub fn cores(mut self, count: usize) -> Self {
        self.host = self.host.cores(count);
        self
    }

    /// Drives each bdev from every core.
    pub fn every_core(self) -> Self {
        self.args(["-C"])
    }

    /// I/Os in flight for each job.
    pub fn queue_depth(mut self, depth: u32) -> Self {
        self.queue_depth = depth;
        self
    }

    /// Bytes of each I/O.
    pub fn io_size(mut self, bytes: u32) -> Self {
        self.io_size = bytes;
        self
    }

    /// How long the workload runs.
    pub fn seconds(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }

    /// Drives this bdev only.
    pub fn bdev(mut self, name: &str) -> Self {
        self.bdev = Some(name.into());
        self
    }

    /// Reads and writes through the zero-copy API where a bdev supports it (default: off, in every version).
    pub fn zcopy(mut self, zcopy: bool) -> Self {
        self.zcopy = zcopy;
        self
    }

    /// Appends arguments of `bdevperf`, such as `-f` (go on after a failed I/O) or `-M 70` (share of reads).
    pub fn args<A: Into<std::ffi::OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.host = self.host.args(args);
        self
    }

    /// Runs the workload; that an I/O fails or that data is wrong is an error.
    pub fn run(self) -> Result<Perf> {
        let (perf, log) = self.measure()?;
        clean(perf, log)
    }

    /// Runs the workload; what went wrong is in [`Perf::errors`]. Only that there are no figures is an error.
    pub fn report(self) -> Result<Perf> {
        Ok(self.measure()?.0)
    }

    /// Starts `bdevperf` so that the workload runs when [`BdevperfServer::start`] says so: an RPC can be sent in the
    /// middle of it.
    pub fn serve(self) -> Result<BdevperfServer> {
        let timeout = self.timeout();
        let queue_depth = self.queue_depth;
        let host = self.into_host().arg("-z").start()?;
        Ok(BdevperfServer { host, queue_depth, timeout })
    }

    fn measure(self) -> Result<(Perf, String)> {
        let (timeout, queue_depth) = (self.timeout(), self.queue_depth);
        let mut host = self.into_host().spawn()?;
        let output = host.output_without(NO_BDEV, timeout)?;
        match Perf::parse(&output.log, queue_depth) {
            Some(perf) => Ok((judge(perf, output.status), output.log)),
            None if output.status.success() => Err(host.bad_output("printed no figures")),
            None => Err(host.bad_output(format!("ended with {} before any I/O", output.status))),
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.seconds.into()) + OVERHEAD
    }

    fn into_host(self) -> HostBuilder {
        let zcopy = if self.zcopy { self.zcopy_on } else { self.zcopy_off };
        self.host
            .args(["-w", &self.workload])
            .args(["-q", &self.queue_depth.to_string()])
            .args(["-o", &self.io_size.to_string()])
            .args(["-t", &self.seconds.to_string()])
            .args(self.bdev.iter().flat_map(|bdev| ["-T", bdev]))
            .args(zcopy)
    }
}

fn judge(mut perf: Perf, status: ExitStatus) -> Perf {
    if !status.success() && perf.errors.is_empty() {
        perf.errors.push(format!("bdevperf ended with {status}"));
    }
    perf
}

fn clean(perf: Perf, log: String) -> Result<Perf> {
    if perf.errors.is_empty() {
        return Ok(perf);
    }
    let what = perf.errors.join("; ");
    Err(Error::Output { program: "bdevperf".into(), what, log })
}

/// A `bdevperf` that waits to be told to run its workload.
#[derive(Debug)]
pub struct BdevperfServer {
    host: Host,
    queue_depth: u32,
    timeout: Duration,
}

/// A workload that runs.
#[derive(Debug)]
#[must_use = "the figures come from `finish`"]
pub struct Running<'a> {
    server: &'a BdevperfServer,
    client: crate::rpc::RpcClient,
    id: u64,
    logged: usize,
}

impl BdevperfServer {
    /// The program, for RPCs before, during and after the workload.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The program, to end it.
    pub fn host_mut(&mut self) -> &mut Host {
        &mut self.host
    }

    /// Runs the workload; that an I/O fails or that data is wrong is an error.
    pub fn run(&self) -> Result<Perf> {
        clean(self.start()?.finish()?, self.host.log())
    }

    /// Starts the workload and returns at once.
    pub fn start(&self) -> Result<Running<'_>> {
        let mut client = self.host.rpc()?;
        client.set_timeout(self.timeout);
        let logged = self.host.log().len();
        let id = client.send("perform_tests", ())?;
        Ok(Running { server: self, client, id, logged })
    }
}

impl Running<'_> {
    /// Waits for the end of the workload; what went wrong is in [`Perf::errors`].
    ///
    /// Later releases of `bdevperf` end after a workload with errors.
    pub fn finish(mut self) -> Result<Perf> {
        let host = &self.server.host;
        let reply = self.client.receive::<Value>("perform_tests", self.id);
        // The table is written and flushed before the reply is sent.
        let log = host.log();
        let table = Perf::parse(log.get(self.logged..).unwrap_or(&log), self.server.queue_depth);
        match reply {
            Ok(value) => match Results::deserialize(value) {
                Ok(results) => Ok(results.into_perf(table)),
                Err(_) => table.ok_or_else(|| host.bad_output("printed no figures")),
            },
            Err(RpcError::Remote { message, .. }) => {
                let mut perf = table.ok_or_else(|| host.bad_output(&message))?;
                if perf.errors.is_empty() {
                    perf.errors.push(message);
                }
                Ok(perf)
            }
            Err(error) => Err(host.bad_output(error.to_string())),
        }
    }
}

/// The reply of `perform_tests` in later releases; 20.07 answers with a number.
#[derive(Deserialize)]
struct Results {
    results: Vec<JobResult>,
}

#[derive(Deserialize)]
struct JobResult {
    job: String,
    runtime: f64,
    iops: f64,
    mibps: f64,
    io_failed: u64,
    io_timeout: u64,
    avg_latency_us: f64,
}

impl Results {
    /// The figures, with what the table tells of errors.
    fn into_perf(self, table: Option<Perf>) -> Perf {
        let job = |result: JobResult| {
            let per_second =
                |count: u64| if result.runtime > 0.0 { count as f64 / result.runtime } else { 0.0 };
            Job {
                fails_per_s: per_second(result.io_failed),
                timeouts_per_s: per_second(result.io_timeout),
                name: result.job,
                iops: result.iops,
                mib_s: result.mibps,
                latency_us: result.avg_latency_us,
            }
        };
        let errors = table.map(|table| table.errors).unwrap_or_default();
        Perf::of(self.results.into_iter().map(job).collect(), errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_results_are_read() {
        let value = serde_json::json!({ "core_count": 1, "results": [{
            "job": "M0", "core_mask": "0x1", "workload": "verify", "status": "finished", "queue_depth": 8,
            "io_size": 4096, "runtime": 2.0, "iops": 100.0, "mibps": 0.4, "io_failed": 4, "io_timeout": 0,
            "avg_latency_us": 7.5, "min_latency_us": 1.0, "max_latency_us": 9.0,
        }] });
        let perf = Results::deserialize(value).unwrap().into_perf(None);
        assert_eq!(perf.jobs[0].fails_per_s, 2.0);
        assert_eq!((perf.iops, perf.latency_us), (100.0, 7.5));
        assert!(!perf.errors.is_empty());
        assert!(Results::deserialize(serde_json::json!(0)).is_err());
    }
}
