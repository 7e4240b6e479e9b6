//! What every module that stores data must pass: SPDK's `bdevio`, `bdevperf` on two cores, and the verifier of our own.
//! A module is one line of the list below.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Bdevio, Bdevperf, Config, Host, Verify, errors, modules, seconds, spdk, verifier, verify,
};

/// Makes the tests of each module: its name, and a configuration with the bdev `disk`, of 32 MiB at least.
macro_rules! every_module {
    ($($name:ident: $config:expr;)*) => {
        $(
            mod $name {
                use super::*;

                #[test]
                fn bdevio() {
                    super::bdevio($config);
                }

                #[test]
                fn bdevperf() {
                    super::bdevperf($config);
                }

                #[test]
                fn verifier() {
                    super::verifies($config);
                }
            }
        )*
    };
}

every_module! {
    ram: Config::new().bdev("bdev_ram_create", sized("disk"));
    rpassthru: over("bdev_rpassthru_create", json!({}));
    rdelay: over("bdev_rdelay_create", json!({
        "avg_read_latency": 20, "p99_read_latency": 200, "avg_write_latency": 50, "p99_write_latency": 500,
    }));
    fault: over("bdev_fault_create", json!({ "seed": 1 }));
    crypt: over("bdev_crypt_create", json!({ "key_file": key_file() }));
    tier: Config::new().malloc("slow", 1 << 17, 512).malloc("fast", 1 << 14, 512).bdev(
        "bdev_tier_create",
        json!({ "name": "disk", "fast": "fast", "slow": "slow", "format": true }),
    );
}

fn sized(name: &str) -> Value {
    json!({ "name": name, "num_blocks": 1 << 17, "block_size": 512 })
}

/// A bdev `disk` on SPDK's own memory disk.
fn over(method: &str, extra: Value) -> Config {
    let mut params = json!({ "name": "disk", "base_bdev_name": "base" });
    params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Config::new().malloc("base", 1 << 17, 512).bdev(method, params)
}

/// A key for `crypt`.
fn key_file() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crypt.key");
    if !path.is_file() {
        let key: String = (0..64).map(|byte| format!("{byte:02x}")).collect();
        // Several tests may do this at once.
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        file.write_all(key.as_bytes()).unwrap();
        file.persist(&path).unwrap();
    }
    path
}

fn bdevio(config: Config) {
    let report = Bdevio::new(spdk()).plugin(modules()).config(config).run("disk").unwrap();
    assert!(report.passed() >= 22, "{}", report.log);
}

fn bdevperf(config: Config) {
    for (io_size, depth) in [(4096, 128), (64 << 10, 16)] {
        let perf = Bdevperf::new(spdk(), "verify").plugin(modules()).config(config.clone());
        let perf = perf.bdev("disk").queue_depth(depth).io_size(io_size).cores(2).every_core();
        let perf = perf.seconds(seconds().div_ceil(4)).run().unwrap();
        assert_eq!(perf.jobs.len(), 2);
        assert!(perf.errors.is_empty() && perf.iops > 100.0, "{perf:?}");
    }
}

fn verifies(config: Config) {
    let host = Host::builder(spdk(), "spdk_tgt").plugins([modules(), verifier()]);
    let mut host = host.config(config).cores(2).start().unwrap();
    let time = f64::from(seconds()) / 5.0;
    for options in [
        Verify::new().seconds(time).cores(2).depth(16),
        Verify::new().seconds(time).cores(2).depth(4).blocks(1000, 5000),
        Verify::new().seconds(time).depth(32).even_buffers(),
    ] {
        let run = verify(&host, "disk", options);
        eprintln!("{run:?}");
        assert!(run.total() > 1000 && run.blocks_checked > 10_000, "{run:?}");
    }
    host.shutdown().unwrap();
    // A compare that finds a difference, as some are to, is an error to SPDK's memory disk; and later releases would
    // have a plugin's threads told to exit.
    let known = ["Failed to execute compare", "spdk_thread_exit", "non-zero exit code"];
    let log = host.log();
    let unknown = |line: &&&str| !known.iter().any(|known| line.contains(known));
    assert_eq!(errors(&log).iter().find(unknown), None, "{log}");
}
