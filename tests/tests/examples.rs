//! The examples, run on a real SPDK.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use spdk_plugin_tests::{Build, Config, Host, HostBuilder, Memory, Output, at_least, spdk};

const SOON: Duration = Duration::from_secs(60);

/// An example that takes SPDK's options.
fn example(name: &str) -> HostBuilder {
    Host::builder(spdk(), program(name))
}

/// An example with options of its own, in ordinary memory.
fn foreign(name: &str) -> HostBuilder {
    let host = Host::builder(spdk(), program(name)).bare().memory(Memory::NoHuge);
    // The rig sees to it on older releases.
    if at_least(24, 1) { host.arg("--no-huge") } else { host }
}

fn program(name: &str) -> std::path::PathBuf {
    let package = format!("spdk-plugin-example-{}", name.replace('_', "-"));
    let built = Build::package(&package).bin(spdk(), name);
    built.unwrap_or_else(|error| panic!("cannot build {name}: {error}"))
}

#[track_caller]
fn succeeds(host: HostBuilder) -> Output {
    let output = host.run(SOON).unwrap();
    assert!(output.status.success(), "{}\n{}", output.status, output.log);
    output
}

#[track_caller]
fn says(output: &Output, text: &str) {
    assert!(output.log.lines().any(|line| line == text), "no '{text}' in\n{}", output.log);
}

fn aio(config: Config, name: &str, file: &Path) -> Config {
    config.bdev("bdev_aio_create", json!({ "name": name, "filename": file, "block_size": 512 }))
}

/// Bytes without a pattern that a misplaced block would go unnoticed in.
fn noise(len: usize) -> Vec<u8> {
    let step = |seed: &mut u32| {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*seed >> 24) as u8)
    };
    std::iter::repeat_n((), len).scan(7, |seed, ()| step(seed)).collect()
}

#[test]
fn hello_bdev() {
    let config = include_str!("../../examples/hello_bdev/bdev.json");
    says(&succeeds(example("hello_bdev").config(config)), "Malloc0 says: Hello from Rust");
    let output = example("hello_bdev").run(SOON).unwrap();
    assert!(!output.status.success() && output.log.contains("hello_bdev: there is no bdev"));
}

/// What the README shows of it is what is there.
#[test]
fn hello_bdev_is_in_the_readme() {
    let readme = include_str!("../../README.md");
    for file in [
        include_str!("../../examples/hello_bdev/src/main.rs"),
        include_str!("../../examples/hello_bdev/build.rs"),
    ] {
        let code = &file[file.find("use spdk_plugin").unwrap()..];
        assert!(readme.contains(&format!("```rust\n{code}```\n")), "{code}");
    }
}

#[test]
fn copy() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    // Not whole pieces.
    let data = noise((5 << 20) + 512);
    fs::write(&from, &data).unwrap();
    fs::write(&to, vec![0; data.len() + 4096]).unwrap();
    let config = || aio(aio(Config::new(), "A", &from), "B", &to);
    let host = example("copy").config(config()).cores(2);
    let output = succeeds(host.args(["from=A", "to=B"]));
    says(&output, "copied A to B");
    let shares = output.log.lines().filter_map(|line| {
        line.strip_prefix("core ")?
            .split_once(": ")?
            .1
            .strip_suffix(" bytes")?
            .parse::<usize>()
            .ok()
    });
    let shares: Vec<_> = shares.collect();
    assert_eq!((shares.len(), shares.iter().sum()), (2, data.len()), "{}", output.log);
    let copied = fs::read(&to).unwrap();
    assert!(copied[..data.len()] == data && copied[data.len()..].iter().all(|byte| *byte == 0));

    let host = example("copy").config(config()).args(["from=B", "to=A"]);
    let output = host.run(SOON).unwrap();
    assert!(!output.status.success() && output.log.contains("it does not fit"), "{}", output.log);
}

#[test]
fn compose() {
    let output = succeeds(example("compose"));
    says(&output, "Malloc0 (Malloc disk) has a strip of 'a'");
    says(&output, "Ram0 (RAM disk in Rust) has a strip of 'b'");
}

#[test]
fn dd() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let operand = |name: &str, path: &Path| format!("{name}={}", path.display());
    // The last block is part of one.
    let data = noise((1 << 20) + 1000);
    fs::write(file("data"), &data).unwrap();
    fs::write(file("disk"), vec![9; 2 << 20]).unwrap();
    let run = |args: &[&str], file: Option<String>| {
        let config = aio(Config::new(), "A", &dir.path().join("disk"));
        example("dd").config(config).args(args).args(file)
    };
    let copied = |output: &Output, bytes: usize| {
        let start = format!("{bytes} bytes copied, ");
        let line = output.log.lines().find(|line| line.starts_with(&start));
        assert!(line.is_some_and(|line| line.ends_with(" MB/s")), "{}", output.log);
    };

    let output = succeeds(run(&["of=A", "bs=4K", "seek=2"], Some(operand("if", &file("data")))));
    copied(&output, data.len());
    let disk = fs::read(file("disk")).unwrap();
    let (start, end) = (8192, 8192 + data.len());
    assert!(disk[..start].iter().all(|byte| *byte == 9) && disk[start..end] == data);
    let padded = end.next_multiple_of(512);
    assert!(disk[end..padded].iter().all(|byte| *byte == 0) && disk[padded] == 9);

    let args = ["if=A", "bs=8K", "skip=1", "count=16", "qd=3"];
    let output = succeeds(run(&args, Some(operand("of", &file("part")))));
    copied(&output, 16 * 8192);
    assert!(fs::read(file("part")).unwrap() == data[..16 * 8192]);

    for (args, text) in [
        (["if=A", "of=A", "bs=700"], "bs=700 is no multiple of the block size 512"),
        (["if=A", "of=A", "bs=0"], "bs is '0': expected a number from 1"),
        (["if=A", "of=A", "conv=sync"], "there is no operand 'conv'"),
        (["if=/no/such", "of=A", "bs=4K"], "dd: opening /no/such: No such file"),
    ] {
        let output = run(&args, None).run(SOON).unwrap();
        assert!(!output.status.success() && output.log.contains(text), "{}", output.log);
    }
}

#[test]
fn tokio_host() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("bdev.json");
    fs::write(&config, Config::new().malloc("M0", 64, 512).to_string()).unwrap();
    let host = foreign("tokio_host").arg("--json").arg(&config);
    let mut host = host.args(["--listen", "127.0.0.1:0", "M0"]).spawn().unwrap();
    host.wait_log("M0 is served on ", SOON).unwrap();
    let log = host.log();
    let address = log.lines().find_map(|line| line.strip_prefix("M0 is served on ")).unwrap();
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        BufReader::new(stream)
    };
    let ask = |stream: &mut BufReader<TcpStream>, line: &str| {
        stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    };
    let (mut first, mut second) = (connect(), connect());
    assert_eq!(ask(&mut first, "put 63 some text"), "ok");
    assert_eq!(ask(&mut second, "get 63"), "some text");
    assert_eq!(ask(&mut second, "get 62"), "");
    for (line, text) in [("get 64", "beyond its end"), ("get x", "invalid digit"), ("put", "error")]
    {
        let answer = ask(&mut first, line);
        assert!(answer.starts_with("error: ") && answer.contains(text), "{answer}");
    }
    let pid = libc::pid_t::try_from(host.pid()).unwrap();
    // SAFETY: the host was not reaped, so the pid is its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    // Connections that are open do not keep it.
    let status = host.wait_exit(SOON).unwrap();
    assert!(status.success() && host.log().contains("stopped in order"), "{}", host.log());
}

#[test]
fn smol_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let data = noise((1 << 20) + 100);
    fs::write(path("data"), &data).unwrap();
    fs::write(path("disk"), vec![9; 2 << 20]).unwrap();
    fs::write(path("bdev.json"), aio(Config::new(), "A", &path("disk")).to_string()).unwrap();
    let host = foreign("smol_host").arg("--json").arg(path("bdev.json"));
    let output = succeeds(host.arg("--file").arg(path("data")).arg("A"));
    says(&output, &format!("{} bytes are in A", data.len()));
    assert!(fs::read(path("disk")).unwrap()[..data.len()] == data);
}
