//! Runs SPDK's `bdevio`: its suite of functional tests for one bdev.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_build::Spdk;

use crate::builder::HostBuilder;
use crate::error::Result;
use crate::host::Host;
use crate::rpc::RpcError;

/// How long the suite may take.
const TIMEOUT: Duration = Duration::from_secs(180);

/// A run of `bdevio`, to be described and started.
///
/// The bdev must not be claimed: a disk that another module stacks on is refused.
#[derive(Clone, Debug)]
#[must_use = "a description runs nothing"]
pub struct Bdevio {
    host: HostBuilder,
    timeout: Duration,
}

/// What the suite found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Each case that ran, and whether it passed.
    pub cases: Vec<(String, bool)>,
    /// The whole output.
    pub log: String,
}

impl Report {
    /// Number of cases that passed.
    pub fn passed(&self) -> usize {
        self.cases.iter().filter(|(_, passed)| *passed).count()
    }

    /// Names of the cases that failed.
    pub fn failed(&self) -> Vec<&str> {
        let failed = self.cases.iter().filter(|(_, passed)| !passed);
        failed.map(|(name, _)| name.as_str()).collect()
    }
}

impl Bdevio {
    /// Describes a run with SPDK's `bdevio`.
    pub fn new(spdk: &Spdk) -> Self {
        // The suite has a thread for each of its three cores.
        let host = Host::builder(spdk, "bdevio").cores(3).arg("-w");
        Self { host, timeout: TIMEOUT }
    }

    /// Preloads a plugin.
    pub fn plugin(mut self, path: impl Into<PathBuf>) -> Self {
        self.host = self.host.plugin(path);
        self
    }

    /// Starts with this configuration; see [`HostBuilder::config`].
    pub fn config(mut self, json: impl ToString) -> Self {
        self.host = self.host.config(json);
        self
    }

    /// Changes the host in other ways.
    pub fn host(mut self, change: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        self.host = change(self.host);
        self
    }

    /// How long the suite may take (default: 3 minutes).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs the suite on `bdev`. Cases that fail are in the report; that there is none is an error.
    pub fn report(self, bdev: &str) -> Result<Report> {
        let mut host = self.host.start()?;
        let mut rpc = host.rpc()?;
        rpc.set_timeout(self.timeout);
        let call = rpc.call::<Value>("perform_tests", json!({ "name": bdev }));
        // Cases that fail are an error of this call too; the report tells it from others.
        if let Err(error) = &call
            && !matches!(error, RpcError::Remote { .. })
        {
            return Err(host.bad_output(error.to_string()));
        }
        let log = host.log();
        let cases = parse(&log);
        if cases.is_empty() {
            let why = call.err().map_or("no test ran".into(), |error| error.to_string());
            return Err(host.bad_output(why));
        }
        // The suite may pass and the module still fail to clean up.
        host.shutdown()?;
        Ok(Report { cases, log })
    }

    /// Runs the suite on `bdev`; a case that fails is an error.
    pub fn run(self, bdev: &str) -> Result<Report> {
        let report = self.report(bdev)?;
        let failed = report.failed();
        if failed.is_empty() {
            return Ok(report);
        }
        Err(crate::Error::Output {
            program: "bdevio".into(),
            what: format!(
                "{} of {} cases failed: {}",
                failed.len(),
                report.cases.len(),
                failed.join(", ")
            ),
            log: report.log.clone(),
        })
    }
}

/// Reads lines such as `  Test: blockdev reset ...passed`. What the program logs meanwhile may stand before the
/// result.
fn parse(log: &str) -> Vec<(String, bool)> {
    let mut cases = Vec::new();
    let mut rest = log;
    while let Some((_, after)) = rest.split_once("  Test: ") {
        let Some((name, after)) = after.split_once(" ...") else { break };
        let this = after.split_once("  Test: ").map_or(after, |(this, _)| this);
        let passed = this.find("passed");
        let failed = this.find("FAILED");
        cases.push((name.to_owned(), passed.is_some() && failed.is_none()));
        rest = after;
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_read() {
        let log = "\nSuite: bdevio tests on: M0\n  Test: blockdev write read 4k ...passed\n  \
                   Test: blockdev reset ...[2026] bdev.c: 1:f: *ERROR*: no\nFAILED\n    \
                   1. bdevio.c:960  - CU_ASSERT_EQUAL(rc,0)\n  Test: blockdev copy ...passed\n\n\
                   Run Summary:    Type  Total    Ran Passed Failed Inactive\n";
        let report = Report { cases: parse(log), log: log.into() };
        assert_eq!(report.cases.len(), 3);
        assert_eq!(report.passed(), 2);
        assert_eq!(report.failed(), ["blockdev reset"]);
    }

    #[test]
    fn a_case_without_an_end_did_not_pass() {
        assert_eq!(parse("  Test: blockdev reset ..."), [("blockdev reset".into(), false)]);
        assert!(parse("no tests").is_empty());
    }
}
