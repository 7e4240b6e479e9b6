//! SPDK's own test programs on SPDK's own bdevs.

use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_rig::{Bdevio, Bdevperf, Config, Host, PythonClient, spdk};

fn malloc() -> Config {
    Config::new().malloc("M0", 65536, 512)
}

#[test]
fn bdevperf_verifies_and_measures() {
    let perf = Bdevperf::new(spdk(), "verify").config(malloc()).queue_depth(16).run().unwrap();
    assert_eq!(perf.jobs.len(), 1);
    assert_eq!(perf.jobs[0].name, "M0");
    assert!(perf.iops > 1000.0 && perf.mib_s > 1.0 && perf.latency_us > 0.0, "{perf:?}");
}

#[test]
fn bdevperf_drives_every_core() {
    let config = Config::new().null("N0", 65536, 512);
    let run = Bdevperf::new(spdk(), "randread").config(config).cores(2).every_core();
    let perf = run.queue_depth(8).run().unwrap();
    assert_eq!(perf.jobs.len(), 2, "{perf:?}");
}

#[test]
fn bdevperf_sees_wrong_data() {
    // What is written to C's null bdev is not what is read from it.
    let config = Config::new().null("N0", 65536, 512);
    let run = Bdevperf::new(spdk(), "verify").config(config);
    let error = run.clone().run().unwrap_err();
    assert!(error.to_string().contains("mismatch"), "{error}");
    assert!(!run.report().unwrap().errors.is_empty());
}

#[test]
fn bdevperf_sees_failed_io() {
    let config = || malloc().bdev("bdev_error_create", json!({ "base_name": "M0" }));
    let inject = json!({ "name": "EE_M0", "io_type": "read", "error_type": "failure", "num": 5 });
    let server = Bdevperf::new(spdk(), "read").config(config()).bdev("EE_M0").args(["-f"]).serve();
    let server = server.unwrap();
    let _: Value = server.host().call("bdev_error_inject_error", inject).unwrap();
    let perf = server.start().unwrap().finish().unwrap();
    assert!(perf.jobs[0].fails_per_s > 0.0, "{perf:?}");
    assert!(!perf.errors.is_empty());
}

#[test]
fn bdevperf_names_a_missing_bdev() {
    let run = Bdevperf::new(spdk(), "read").config(malloc()).bdev("M9");
    let error = run.run().unwrap_err();
    assert!(error.to_string().contains("M9"), "{error}");
}

#[test]
fn bdevperf_serves_and_runs_again() {
    let mut server = Bdevperf::new(spdk(), "randwrite").config(malloc()).serve().unwrap();
    for _ in 0..2 {
        let running = server.start().unwrap();
        let bdevs: Value = server.host().call("bdev_get_bdevs", ()).unwrap();
        assert_eq!(bdevs[0]["name"], "M0");
        let perf = running.finish().unwrap();
        assert!(perf.iops > 1000.0 && perf.errors.is_empty(), "{perf:?}");
    }
    server.host_mut().shutdown().unwrap();
}

#[test]
fn bdevio_passes_on_malloc() {
    let report = Bdevio::new(spdk()).config(malloc()).run("M0").unwrap();
    assert!(report.passed() >= 22, "{}", report.log);
    assert!(report.failed().is_empty());
}

#[test]
fn bdevio_reports_failed_cases() {
    let config = Config::new().null("N0", 65536, 512);
    let report = Bdevio::new(spdk()).config(config).report("N0").unwrap();
    assert!(!report.failed().is_empty() && report.passed() > 0, "{report:?}");
}

#[test]
fn bdevio_names_a_missing_bdev() {
    let error = Bdevio::new(spdk()).config(malloc()).run("M9").unwrap_err();
    assert!(error.to_string().contains("'M9'"), "{error}");
}

#[test]
fn the_nvmf_target_runs() {
    let mut host = Host::builder(spdk(), "nvmf_tgt").start().unwrap();
    let transport = json!({ "trtype": "TCP" });
    assert!(host.call::<bool>("nvmf_create_transport", transport).unwrap());
    host.shutdown().unwrap();
}

#[test]
fn a_program_may_run_to_its_end() {
    let run = Host::builder(spdk(), "spdk_tgt").arg("--version").run(Duration::from_secs(10));
    let output = run.unwrap();
    assert!(output.log.contains("SPDK v"), "{}", output.log);
}

#[test]
fn the_official_client_works() {
    let client = PythonClient::install().unwrap();
    let host = Host::builder(spdk(), "spdk_tgt").start().unwrap();
    let call = |args: &[&str]| client.call(&host.socket(), args.iter().copied());
    assert!(call(&["rpc_get_methods"]).unwrap().contains("bdev_get_bdevs"));
    assert_eq!(call(&["bdev_null_create", "N0", "64", "512"]).unwrap().trim(), "N0");
    assert!(call(&["bdev_get_bdevs", "-b", "N0"]).unwrap().contains("\"N0\""));
    call(&["bdev_null_delete", "N0"]).unwrap();
    let error = call(&["bdev_get_bdevs", "-b", "N0"]).unwrap_err();
    assert!(error.to_string().contains("No such device"), "{error}");
}
