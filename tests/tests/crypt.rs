//! `crypt`: what lies on the base is AES-XTS, what is read is what was written, and nobody sees the key.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Bdevio, Bdevperf, Config, Heap, Host, Perf, Verify, at_least, bdevs, check, counting, fill,
    ios, modules, probe, prober, python_with, rounds, seconds, seed, spdk, until, verifier, verify,
};
use tempfile::TempDir;

const CREATE: &str = "bdev_crypt_create";
const DELETE: &str = "bdev_crypt_delete";
const CIPHERS: [(&str, usize); 2] = [("AES-XTS-128", 32), ("AES-XTS-256", 64)];

/// The key that a test uses; `salt` makes another one.
fn key(len: usize, salt: u8) -> Vec<u8> {
    (0..len as u8).map(|i| i.wrapping_mul(37).wrapping_add(salt) ^ 0x5c).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_key(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A directory with keys.
struct Keys(TempDir);

impl Keys {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (cipher, len) in CIPHERS {
            write_key(&dir.path().join(cipher), &key(len, 0), 0o600);
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The parameters of a bdev on `base`.
    fn on(&self, base: &str, name: &str, cipher: &str) -> Value {
        let key_file = self.path(cipher);
        json!({ "name": name, "base_bdev_name": base, "cipher": cipher, "key_file": key_file })
    }

    /// A bdev on SPDK's own memory disk.
    fn top(&self, block_size: u32) -> Config {
        Config::new()
            .malloc("base", (64 << 20) / u64::from(block_size), block_size)
            .bdev(CREATE, self.on("base", "top", "AES-XTS-256"))
    }
}

fn host(config: Config) -> Host {
    let builder = Host::builder(spdk(), "spdk_tgt").plugins([modules(), prober(), verifier()]);
    builder.config(config).cores(2).start().unwrap()
}

#[track_caller]
fn ends_well(mut host: Host) {
    host.shutdown().unwrap();
    let log = host.log();
    for word in ["*ERROR*", "not unregistered", "leak", "still"] {
        assert!(!log.contains(word), "'{word}' in the log:\n{log}");
    }
}

fn perf(keys: &Keys, workload: &str) -> Bdevperf {
    perf_with(modules(), keys, workload)
}

fn perf_with(plugin: PathBuf, keys: &Keys, workload: &str) -> Bdevperf {
    Bdevperf::new(spdk(), workload).plugin(plugin).config(keys.top(512)).bdev("top")
}

#[track_caller]
fn clean(perf: Bdevperf) -> Perf {
    let perf = perf.run().unwrap();
    assert!(perf.errors.is_empty() && perf.iops > 100.0, "{perf:?}");
    perf
}

/// With blocks of 512 bytes it is one of `modules`.
#[test]
fn bdevio_with_large_blocks() {
    let keys = Keys::new();
    let config = keys.top(4096);
    let report = Bdevio::new(spdk()).plugin(modules()).config(config).report("top").unwrap();
    assert!(report.failed().is_empty() && report.passed() >= 22, "{}", report.log);
}

/// More than the thread has of either, and of SPDK's requests.
#[test]
fn buffers_are_short() {
    let keys = Keys::new();
    for io_size in [4096, 64 << 10] {
        clean(
            perf(&keys, "verify")
                .queue_depth(if io_size == 4096 { 512 } else { 128 })
                .io_size(io_size)
                .seconds(2),
        );
    }
    let set = json!({ "bdev_io_pool_size": 64, "bdev_io_cache_size": 8 });
    let config = Config::new()
        .call("bdev", "bdev_set_options", set)
        .malloc("base", 1 << 17, 512)
        .bdev(CREATE, keys.on("base", "middle", "AES-XTS-128"))
        .bdev(CREATE, keys.on("middle", "top", "AES-XTS-256"));
    clean(perf(&keys, "verify").config(config).queue_depth(24).seconds(2));
}

#[test]
fn every_workload() {
    let keys = Keys::new();
    for workload in ["randrw", "unmap", "flush", "write_zeroes", "reset"] {
        let perf = perf(&keys, workload).queue_depth(32).seconds(1);
        let perf = if workload == "randrw" { perf.args(["-M", "50"]) } else { perf };
        let perf = perf.run().unwrap();
        assert!(perf.errors.is_empty(), "{workload}: {perf:?}");
    }
}

/// All kinds of I/O, in vectors cut anywhere, up to sizes that are written in several parts.
#[test]
fn random_io() {
    let keys = Keys::new();
    for (cipher, _) in CIPHERS {
        for block_size in [512, 4096] {
            let config = Config::new()
                .malloc("base", (32 << 20) / u64::from(block_size), block_size)
                .bdev(CREATE, keys.on("base", "top", cipher));
            let host = host(config);
            let seconds = f64::from(seconds()) / 5.0;
            let options = Verify::new().seconds(seconds).cores(2).depth(16).longest(1 << 20);
            let run = verify(&host, "top", options);
            assert!(run.total() > 300 && run.blocks_checked > 3000, "{run:?}");
            assert!(run.operations["read"] > 0 && run.operations["write"] > 0, "{run:?}");
            ends_well(host);
        }
    }
}

/// Takes a file of the length of the other through the cipher, as a table of dm-crypt with the sector size would.
fn with_python(what: &str, cipher: (&str, usize), block_size: usize, from: &Path, to: &Path) {
    const PROGRAM: &str = "
import sys
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
what, key, size, source, target = sys.argv[1:]
key, size = bytes.fromhex(key), int(size)
with open(source, 'rb') as source, open(target, 'wb') as target:
    number = 0
    while block := source.read(size):
        xts = Cipher(algorithms.AES(key), modes.XTS(number.to_bytes(16, 'little')))
        xts = getattr(xts, what)()
        target.write(xts.update(block) + xts.finalize())
        number += 1
";
    let python = python_with("cryptography", "50.0.2").unwrap();
    let mut command = Command::new(python);
    command.args(["-c", PROGRAM, what, &hex(&key(cipher.1, 0)), &block_size.to_string()]);
    let output = command.arg(from).arg(to).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn sized(path: &Path, len: u64) {
    File::create(path).unwrap().set_len(len).unwrap();
}

fn aio(config: Config, name: &str, file: &Path, block_size: usize) -> Config {
    let params = json!({ "name": name, "filename": file, "block_size": block_size });
    config.bdev("bdev_aio_create", params)
}

/// `cryptography` of PyPI, which is OpenSSL, reads what the bdev wrote, and the bdev what that wrote.
#[test]
fn another_implementation_reads_and_writes_it() {
    const LEN: u64 = 4 << 20;
    let (keys, seed) = (Keys::new(), seed());
    for cipher in CIPHERS {
        for block_size in [512, 4096] {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            let (disk, plain) = (path("disk"), path("plain"));
            sized(&disk, LEN);
            sized(&plain, LEN);
            let config = aio(Config::new(), "base", &disk, block_size);
            let config = aio(config, "plain", &plain, block_size);
            let crypt = config.bdev(CREATE, keys.on("base", "top", cipher.0));
            let running = host(crypt.clone());
            let blocks = fill(&running, "top", seed);
            assert_eq!(fill(&running, "plain", seed), blocks);
            assert_eq!(blocks, LEN / block_size as u64);
            // Zeroes are encrypted like all else.
            let zeroes = json!({ "kind": "write_zeroes", "offset": 64, "blocks": 700 });
            for bdev in ["top", "plain"] {
                assert!(probe(&running, bdev, std::slice::from_ref(&zeroes))[0].success);
            }
            ends_well(running);

            let (stored, wanted) = (fs::read(&disk).unwrap(), fs::read(&plain).unwrap());
            let same = stored.chunks(16).zip(wanted.chunks(16)).filter(|(a, b)| a == b).count();
            assert_eq!(same, 0, "some of it is not encrypted");
            let decrypted = path("decrypted");
            with_python("decryptor", cipher, block_size, &disk, &decrypted);
            assert!(fs::read(&decrypted).unwrap() == wanted, "{cipher:?}, {block_size}");

            // The other way round.
            let running = host(aio(Config::new(), "plain", &plain, block_size));
            fill(&running, "plain", seed ^ 1);
            ends_well(running);
            with_python("encryptor", cipher, block_size, &plain, &disk);
            let running = host(crypt);
            assert_eq!(check(&running, "top", seed ^ 1), blocks);
            ends_well(running);
        }
    }
}

#[test]
fn another_key_reads_garbage_and_no_error() {
    let keys = Keys::new();
    write_key(&keys.path("other"), &key(64, 1), 0o600);
    let host = host(keys.top(512));
    let read = [json!({ "kind": "read", "offset": 8, "blocks": 1000 })];
    let write = [json!({ "kind": "write", "offset": 8, "blocks": 1000, "fill": 0x77 })];
    assert!(probe(&host, "top", &write)[0].success);
    assert_eq!(probe(&host, "top", &read)[0].data, Some(0x77));
    assert!(host.call::<bool>(DELETE, json!({ "name": "top" })).unwrap());

    let mut params = keys.on("base", "top", "AES-XTS-256");
    params["key_file"] = json!(keys.path("other"));
    let _: String = host.call(CREATE, params).unwrap();
    let outcome = &probe(&host, "top", &read)[0];
    assert!(outcome.success && outcome.data.is_none(), "{outcome:?}");
    assert!(host.call::<bool>(DELETE, json!({ "name": "top" })).unwrap());

    let _: String = host.call(CREATE, keys.on("base", "top", "AES-XTS-256")).unwrap();
    assert_eq!(probe(&host, "top", &read)[0].data, Some(0x77));
    ends_well(host);
}

/// The longest write that is one request goes through the buffers in several parts.
#[test]
fn long_requests() {
    let keys = Keys::new();
    let host = host(keys.top(512));
    let ops = |kind: &str| -> Vec<Value> {
        let op =
            |i: u64| json!({ "kind": kind, "offset": i * 8192, "blocks": 8191, "fill": i + 1 });
        (0..8).map(op).collect()
    };
    assert!(probe(&host, "top", &ops("write")).iter().all(|outcome| outcome.success));
    for (i, outcome) in probe(&host, "top", &ops("read")).iter().enumerate() {
        assert_eq!(outcome.data, Some(i as u8 + 1));
    }
    assert!(probe(&host, "top", &ops("compare")).iter().all(|outcome| outcome.success));
    ends_well(host);
}

/// What is refused leaves nothing behind, and says why.
#[test]
fn bad_keys() {
    let keys = Keys::new();
    let host = host(Config::new().malloc("base", 1 << 16, 512));
    let good = key(64, 0);
    let refused = |change: Value, why: &str| {
        let mut params = keys.on("base", "top", "AES-XTS-256");
        for (name, value) in change.as_object().unwrap() {
            params[name] = value.clone();
        }
        let params: serde_json::Map<_, _> =
            params.as_object().unwrap().clone().into_iter().filter(|(_, v)| !v.is_null()).collect();
        let error = host.call::<Value>(CREATE, params).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        for secret in [hex(&good), hex(&good[..8]), hex(&good).to_uppercase()] {
            assert!(!error.contains(&secret), "{error}");
        }
        assert_eq!(bdevs(&host), ["base"]);
    };
    let file = |content: &[u8], mode: u32| {
        write_key(&keys.path("bad"), content, mode);
        json!({ "key_file": keys.path("bad") })
    };
    for mode in [0o640, 0o604, 0o666, 0o620, 0o602] {
        refused(file(&good, mode), &format!("has mode {mode:04o}"));
    }
    refused(file(&good[..63], 0o600), "has 63 bytes; AES-XTS-256 takes a key of 64 bytes");
    refused(file(&[&good[..], b"\n"].concat(), 0o600), "has 65 bytes");
    refused(file(hex(&good).replace('5', "x").as_bytes(), 0o600), "holds other characters");
    refused(file(good[..32].repeat(2).as_slice(), 0o600), "are equal");
    refused(file(hex(&good[..32]).as_bytes(), 0o600), "64 hexadecimal digits");
    refused(json!({ "key_file": keys.path("missing") }), "No such file");
    refused(json!({ "key_file": keys.0.path() }), "is no regular file");
    refused(json!({ "key_file": "relative" }), "is not absolute");
    refused(json!({ "key_file": null }), "give key_name or key_file");
    refused(json!({ "key_name": "name" }), "not both");
    refused(json!({ "cipher": "AES-XTS-512" }), "AES-XTS-512");
    refused(json!({ "key": hex(&good) }), "unknown field");
    // It need not have its base for that.
    let waiting = json!({ "base_bdev_name": "nowhere", "key_file": keys.path("missing") });
    refused(waiting, "No such file");
    if at_least(24, 5) {
        refused(json!({ "key_file": null, "key_name": "nothing" }), "there is no key \"nothing\"");
    } else {
        refused(json!({ "key_file": null, "key_name": "k" }), "needs SPDK 24.05 or later");
    }
    // Only root can give a file away.
    let given_away = file(&good, 0o600);
    if chown(keys.path("bad"), Some(54321), None).is_ok() {
        refused(given_away, "belongs to user 54321");
    }
    // A key in hexadecimal is as good.
    write_key(&keys.path("hex"), hex(&good).as_bytes(), 0o400);
    let mut params = keys.on("base", "top", "AES-XTS-256");
    params["key_file"] = json!(keys.path("hex"));
    let _: String = host.call(CREATE, params).unwrap();
    let log = host.log();
    assert!(!log.contains(&hex(&good)) && !log.contains(&hex(&good[..8])), "{log}");
}

#[test]
fn metadata_is_refused() {
    let keys = Keys::new();
    let host = host(Config::new());
    let base = json!({ "name": "base", "num_blocks": 1 << 16, "block_size": 4096, "md_size": 16 });
    let _: String = host.call("bdev_rnull_create", base).unwrap();
    let on_base = keys.on("base", "top", "AES-XTS-256");
    let error = host.call::<Value>(CREATE, on_base).unwrap_err().to_string();
    assert!(error.contains("16 bytes of metadata with each block"), "{error}");
    assert_eq!(bdevs(&host), ["base"]);
}

fn saved(host: &Host) -> Vec<Value> {
    host.call("framework_get_config", json!({ "name": "bdev" })).unwrap()
}

/// Its base is a file, which a restart finds as it was.
#[test]
fn a_restart_brings_the_same() {
    let (keys, seed, dir) = (Keys::new(), seed(), tempfile::tempdir().unwrap());
    let disk = dir.path().join("disk");
    sized(&disk, 8 << 20);
    let base = |config| aio(config, "base", &disk, 512);
    let top = |config: Config| config.bdev(CREATE, keys.on("base", "top", "AES-XTS-256"));

    let first = host(top(base(Config::new())));
    let blocks = fill(&first, "top", seed);
    let before = saved(&first);
    let text = serde_json::to_string(&before).unwrap();
    assert!(text.contains(keys.path("AES-XTS-256").to_str().unwrap()), "{text}");
    for secret in [hex(&key(64, 0)), hex(&key(64, 0)[..8])] {
        assert!(!text.contains(&secret) && !first.log().contains(&secret), "{text}");
    }
    ends_well(first);

    // Whatever order it was saved in, and either way round.
    let of_saved = before.iter().fold(Config::new(), |config, call| {
        let (method, params) = (call["method"].as_str().unwrap(), &call["params"]);
        let ours = ["bdev_aio_create", CREATE].contains(&method);
        if ours { config.bdev(method, params) } else { config }
    });
    for config in [of_saved, base(top(Config::new()))] {
        let second = host(config);
        until("examine", || bdevs(&second).contains(&"top".into()));
        assert_eq!(check(&second, "top", seed), blocks);
        let crypts = |calls: &[Value]| -> Vec<Value> {
            calls.iter().filter(|call| call["method"] == CREATE).cloned().collect()
        };
        let again = saved(&second);
        assert_eq!(crypts(&again), crypts(&before));
        assert_eq!(crypts(&again).len(), 1);
        ends_well(second);
    }
}

/// SPDK's own keeper of keys.
#[test]
fn the_keyring() {
    if !at_least(24, 5) {
        return;
    }
    let (keys, seed, dir) = (Keys::new(), seed(), tempfile::tempdir().unwrap());
    let disk = dir.path().join("disk");
    sized(&disk, 4 << 20);
    let add = json!({ "name": "k", "path": keys.path("AES-XTS-256") });
    let with_key = || Config::new().call("keyring", "keyring_file_add_key", add.clone());
    let params = json!({ "name": "top", "base_bdev_name": "base", "key_name": "k", "cipher": "AES-XTS-256" });
    let by_name = host(aio(with_key(), "base", &disk, 512).bdev(CREATE, params));
    let blocks = fill(&by_name, "top", seed);
    let listed: Vec<Value> = by_name.call("bdev_crypt_get_bdevs", ()).unwrap();
    assert_eq!((&listed[0]["key_name"], &listed[0]["ready"]), (&json!("k"), &json!(true)));
    let text = serde_json::to_string(&saved(&by_name)).unwrap();
    assert!(text.contains("\"key_name\":\"k\""), "{text}");
    let secret = hex(&key(64, 0)[..8]);
    assert!(!text.contains(&secret) && !by_name.log().contains(&secret));
    ends_well(by_name);

    // The same key from the file.
    let config = aio(Config::new(), "base", &disk, 512);
    let by_file = host(config.bdev(CREATE, keys.on("base", "top", "AES-XTS-256")));
    assert_eq!(check(&by_file, "top", seed), blocks);
    ends_well(by_file);
}

/// Requests that wait for a slow base, or for a buffer, are aborted and reset.
#[test]
fn aborts_and_resets() {
    let keys = Keys::new();
    let slow = json!({
        "name": "slow", "base_bdev_name": "base", "avg_read_latency": 3000, "p99_read_latency": 3000,
        "avg_write_latency": 3000, "p99_write_latency": 3000,
    });
    let config = Config::new()
        .malloc("base", 1 << 17, 512)
        .bdev("bdev_delay_create", slow)
        .bdev(CREATE, keys.on("slow", "top", "AES-XTS-256"));
    let host = host(config);
    let writes = |fill: u32| -> Vec<Value> {
        let write = |i: u32| json!({ "kind": "write", "offset": i * 256, "blocks": 256, "fill": fill % 255 + 1 });
        (0..60).map(write).collect()
    };
    for round in 0..rounds().min(50) {
        let mut ops = writes(round);
        if round % 2 == 0 {
            ops.extend((0..60).map(|target| json!({ "kind": "abort", "target": target })));
        }
        ops.push(json!({ "kind": "reset" }));
        let outcomes = probe(&host, "top", &ops);
        assert!(outcomes.last().unwrap().success, "{outcomes:?}");
        let ended = outcomes[..60].iter().filter(|outcome| outcome.success).count();
        assert!(ended < 60, "nothing was aborted");
        // All buffers are there again, and nothing that was aborted comes late.
        assert!(probe(&host, "top", &writes(round + 77)).iter().all(|outcome| outcome.success));
        let read = json!({ "kind": "read", "offset": 0, "blocks": 60 * 256 });
        let fill = ((round + 77) % 255 + 1) as u8;
        assert_eq!(probe(&host, "top", &[read])[0].data, Some(fill));
    }
    ends_well(host);
}

#[test]
fn deleted_under_load() {
    let keys = Keys::new();
    for victim in ["top", "base"] {
        let config = Config::new()
            .bdev(
                "bdev_ram_create",
                json!({ "name": "base", "num_blocks": 1 << 16, "block_size": 512 }),
            )
            .bdev(CREATE, keys.on("base", "top", "AES-XTS-256"));
        let perf = perf(&keys, "randrw").config(config).queue_depth(256).seconds(30);
        let mut server = perf.cores(2).every_core().args(["-M", "30", "-f"]).serve().unwrap();
        let running = server.start().unwrap();
        until("I/O", || ios(server.host()) > 10_000);
        let method = if victim == "top" { DELETE } else { "bdev_ram_delete" };
        assert!(server.host().call::<bool>(method, json!({ "name": victim })).unwrap());
        running.finish().unwrap();
        let left: &[&str] = if victim == "top" { &["base"] } else { &[] };
        assert_eq!(bdevs(server.host()), left);
        server.host_mut().shutdown().unwrap();
    }
}

/// Also where writes wait for a buffer.
#[test]
fn io_allocates_nothing() {
    let keys = Keys::new();
    let calls = |workload: &str, io_size: u32, seconds: u32| {
        let perf = perf_with(counting(), &keys, workload).io_size(io_size);
        let mut server = perf.queue_depth(160).seconds(seconds).serve().unwrap();
        let before = Heap::of(server.host()).calls;
        let perf = server.run().unwrap();
        let calls = Heap::of(server.host()).calls - before;
        server.host_mut().shutdown().unwrap();
        assert!(perf.iops * f64::from(seconds) > 2000.0, "{perf:?}");
        calls
    };
    for (workload, io_size) in [("randread", 4096), ("randwrite", 4096), ("randwrite", 64 << 10)] {
        let (short, long) = (calls(workload, io_size, 1), calls(workload, io_size, 3));
        assert!(long <= short + 16, "{workload} of {io_size}: {short} calls in 1 s, {long} in 3 s");
    }
}
