//! Tasks, time and pollers on SPDK's own threads, tried out by a plugin in `spdk_tgt`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};
use spdk_plugin_tests::{Host, spdk, tasks};

fn target() -> Host {
    Host::builder(spdk(), "spdk_tgt").plugin(tasks()).cores(2).start().unwrap()
}

#[track_caller]
fn run(host: &Host, case: &str) {
    let ended = host.call::<bool>("tasks_case", json!({ "case": case }));
    assert!(ended.is_ok(), "{case}: {}\n{}", ended.unwrap_err(), host.log());
}

#[track_caller]
fn run_all(cases: &[&str]) {
    let mut host = target();
    for case in cases {
        run(&host, case);
    }
    host.shutdown().unwrap();
}

#[test]
fn handles() {
    run_all(&["join", "panic", "abort", "detach", "across", "yield"]);
}

#[test]
fn time() {
    run_all(&["sleep", "many_sleeps", "interval", "timeout", "unused_timeouts"]);
}

#[test]
fn pollers() {
    run_all(&["pause", "inside", "poll_fn", "interrupt_mode"]);
}

#[test]
fn a_poller_has_its_name() {
    let mut host = target();
    run(&host, "keep");
    let threads: Value = host.call("thread_get_pollers", ()).unwrap();
    assert!(threads.to_string().contains("a_kept_one"), "{threads}");
    host.kill().unwrap();
}

/// The call that drops all tasks is one itself, and is answered.
#[test]
fn all_are_dropped() {
    let mut host = target();
    for _ in 0..3 {
        let dropped = host.call::<bool>("tasks_case", json!({ "case": "drop_all" }));
        assert!(dropped.is_err(), "{}", host.log());
        run(&host, "drop_all_later");
    }
    host.shutdown().unwrap();
}

#[derive(Debug, Deserialize)]
struct Report {
    threads: usize,
    finished: usize,
    cancelled: usize,
    dropped: usize,
    wakes: usize,
}

#[test]
fn many_are_woken_and_aborted_from_everywhere() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = std::env::var("SEED").map_or(now.as_nanos() as u64, |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let mut host = target();
    for round in 0..3 {
        let begun = Instant::now();
        let params = json!({ "tasks": 100_000, "seed": seed + round });
        let report: Report =
            host.call("tasks_stress", params).unwrap_or_else(|e| panic!("{e}\n{}", host.log()));
        println!("{report:?} in {:?}", begun.elapsed());
        assert_eq!(report.finished + report.cancelled, 100_000);
        assert_eq!(report.dropped, 100_000);
        assert!(report.cancelled > 1000 && report.threads > 1 && report.wakes > 100_000);
    }
    host.shutdown().unwrap();
}

/// Nothing that waits keeps the program from its end for as long as SPDK would wait for it.
#[test]
fn the_program_ends_at_once() {
    let mut host =
        Host::builder(spdk(), "spdk_tgt").plugin(spdk_plugin_tests::chaos()).start().unwrap();
    for foreign in [false, true] {
        let params = json!({ "ms": 60_000, "foreign": foreign });
        assert!(host.call::<bool>("chaos_task", params).unwrap());
    }
    let begun = Instant::now();
    host.shutdown().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}\n{}", begun.elapsed(), host.log());
    assert!(!host.log().contains("got timeout"), "{}", host.log());
}
