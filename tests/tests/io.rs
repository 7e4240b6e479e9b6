//! Single requests: what each kind does to the data, and how it ends.

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Host, HostBuilder, Outcome, at_least, chaos, modules, probe, prober, spdk,
};

/// NVMe's "compare failure", of the media errors. 20.07 tells no more than that the request failed.
fn miscompare() -> (i32, i32) {
    if at_least(20, 10) { (2, 0x85) } else { (0, 6) }
}

fn target() -> HostBuilder {
    Host::builder(spdk(), "spdk_tgt").plugins([modules(), chaos(), prober()])
}

/// A RAM disk of 16 MiB that is made of two regions.
fn ram() -> Host {
    let host = target().start().unwrap();
    let params = json!({ "name": "ram", "num_blocks": 16384, "block_size": 512 });
    let _: String = host.call("bdev_ram_create", params).unwrap();
    let params = json!({ "name": "ram", "num_blocks": 32768 });
    assert!(host.call::<bool>("bdev_ram_resize", params).unwrap());
    host
}

fn slow(host: &Host, extra: Value) {
    let mut params = json!({ "name": "slow", "num_blocks": 1 << 18, "block_size": 512 });
    params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let _: String = host.call("bdev_chaos_create", params).unwrap();
}

fn op(kind: &str, offset: u64, blocks: u64, fill: u8) -> Value {
    json!({ "kind": kind, "offset": offset, "blocks": blocks, "fill": fill })
}

#[track_caller]
fn one(host: &Host, bdev: &str, op: Value) -> Outcome {
    probe(host, bdev, &[op]).remove(0)
}

#[track_caller]
fn done(host: &Host, op: Value) {
    let outcome = one(host, "ram", op.clone());
    assert!(outcome.success, "{op}: {outcome:?}\n{}", host.log());
}

#[track_caller]
fn reads(host: &Host, offset: u64, blocks: u64, byte: u8) {
    for no_buffer in [false, true] {
        let mut read = op("read", offset, blocks, 0xee);
        read["no_buffer"] = no_buffer.into();
        let outcome = one(host, "ram", read);
        assert_eq!((outcome.success, outcome.data), (true, Some(byte)), "{offset} {outcome:?}");
    }
}

/// Across the border between the regions.
const BORDER: u64 = 16384 - 24;

#[test]
fn ram_keeps_data() {
    let mut host = ram();
    reads(&host, BORDER, 48, 0);
    done(&host, op("write", BORDER, 48, 0x5a));
    reads(&host, BORDER, 48, 0x5a);
    reads(&host, BORDER - 8, 8, 0);
    reads(&host, BORDER + 48, 8, 0);
    done(&host, op("write_zeroes", BORDER + 16, 16, 0));
    reads(&host, BORDER, 16, 0x5a);
    reads(&host, BORDER + 16, 16, 0);
    reads(&host, BORDER + 32, 16, 0x5a);
    done(&host, op("unmap", BORDER, 16, 0));
    done(&host, op("flush", 0, 32768, 0));
    done(&host, json!({ "kind": "reset" }));
    reads(&host, BORDER + 32, 16, 0x5a);
    host.shutdown().unwrap();
}

#[test]
fn ram_compares() {
    let mut host = ram();
    done(&host, op("write", BORDER, 48, 7));
    done(&host, op("compare", BORDER, 48, 7));
    let outcome = one(&host, "ram", op("compare", BORDER, 48, 8));
    assert_eq!((outcome.failed(), outcome.status), (true, miscompare()), "{outcome:?}");
    // One byte of the last block differs.
    done(&host, op("write", BORDER + 47, 1, 8));
    assert_eq!(one(&host, "ram", op("compare", BORDER, 48, 7)).status, miscompare());
    done(&host, op("compare", BORDER, 47, 7));
    // SPDK makes it of a compare and a write.
    done(&host, op("compare_and_write", BORDER + 47, 1, 8));
    let outcome = one(&host, "ram", op("compare_and_write", BORDER + 47, 1, 9));
    assert!(outcome.failed(), "{outcome:?}");
    reads(&host, BORDER + 47, 1, 8);
    host.shutdown().unwrap();
}

#[test]
fn ram_copies() {
    let mut host = ram();
    let copy = |to: u64, from: u64, blocks: u64| json!({ "kind": "copy", "offset": to, "source": from, "blocks": blocks });
    if !at_least(23, 1) {
        assert_eq!(one(&host, "ram", copy(0, 8, 8)).refused, Some(95));
        return;
    }
    for (i, fill) in (0..4).zip(1..) {
        done(&host, op("write", BORDER + 12 * i, 12, fill));
    }
    let pattern = |host: &Host, at: u64| {
        for (i, fill) in (0..4).zip(1..) {
            reads(host, at + 12 * i, 12, fill);
        }
    };
    done(&host, copy(100, BORDER, 48));
    pattern(&host, 100);
    // Overlapping, in both directions.
    done(&host, copy(110, 100, 48));
    pattern(&host, 110);
    done(&host, copy(103, 110, 48));
    pattern(&host, 103);
    host.shutdown().unwrap();
}

/// What was cut off is not there when it comes back.
#[test]
fn ram_forgets_what_it_lost() {
    let mut host = ram();
    let resize = |blocks: u64| {
        let params = json!({ "name": "ram", "num_blocks": blocks });
        assert!(host.call::<bool>("bdev_ram_resize", params).unwrap());
    };
    done(&host, op("write", 32768 - 64, 64, 9));
    resize(32768 - 32);
    reads(&host, 32768 - 64, 32, 9);
    assert_eq!(one(&host, "ram", op("read", 32768 - 32, 8, 0)).refused, Some(22));
    resize(40000);
    reads(&host, 32768 - 64, 32, 9);
    reads(&host, 32768 - 32, 32, 0);
    reads(&host, 32768, 64, 0);
    done(&host, op("write", 39936, 64, 4));
    reads(&host, 39936, 64, 4);
    host.shutdown().unwrap();
}

#[test]
fn ranges_beyond_the_end_are_refused() {
    let mut host = ram();
    for kind in ["read", "write", "unmap", "write_zeroes", "flush", "compare"] {
        let outcome = one(&host, "ram", op(kind, 32760, 16, 0));
        assert_eq!(outcome.refused, Some(22), "{kind}: {outcome:?}");
    }
    host.shutdown().unwrap();
}

/// The bdev layer has no buffer of this size.
#[test]
fn a_read_that_can_have_no_buffer_fails() {
    let mut host = ram();
    let read = json!({ "kind": "read", "blocks": 8192, "no_buffer": true });
    assert!(one(&host, "ram", read).failed());
    reads(&host, 0, 8, 0);
    host.shutdown().unwrap();
}

/// There are about 1,000 buffers of this size.
fn many_reads() -> Value {
    json!({ "kind": "read", "blocks": 128, "no_buffer": true, "repeat": 1500 })
}

#[test]
fn more_reads_than_buffers_take_turns() {
    let mut host = target().start().unwrap();
    slow(&host, json!({ "delay_us": 1000 }));
    let outcomes = probe(&host, "slow", &[many_reads()]);
    assert!(outcomes.iter().all(|outcome| outcome.data == Some(0)));
    host.shutdown().unwrap();
}

/// Some wait in their handlers, some for a place for their future, some for a buffer: a reset ends them all.
#[test]
fn a_reset_aborts_what_waits() {
    let mut host = target().start().unwrap();
    slow(&host, json!({ "delay_us": 20_000_000 }));
    for round in 0..3 {
        let resets = json!({ "kind": "reset", "repeat": 2 });
        let outcomes = probe(&host, "slow", &[many_reads(), resets]);
        let (reads, resets) = outcomes.split_at(1500);
        assert!(reads.iter().all(Outcome::failed), "round {round}: {reads:?}");
        assert!(resets.iter().all(|reset| reset.success), "round {round}: {resets:?}");
    }
    // Nothing is left behind.
    assert!(host.call::<bool>("bdev_chaos_delete", json!({ "name": "slow" })).unwrap());
    host.shutdown().unwrap();
}

#[test]
fn an_abort_ends_one_request() {
    let mut host = target().start().unwrap();
    slow(&host, json!({ "delay_us": 500_000 }));
    let read = |offset: u64| op("read", offset, 8, 0);
    let abort = |target: usize| json!({ "kind": "abort", "target": target });
    let ops = [read(0), read(8), read(16), abort(1)];
    let outcomes = probe(&host, "slow", &ops);
    let ended: Vec<_> = outcomes.iter().map(|outcome| outcome.success).collect();
    assert_eq!(ended, [true, false, true, true], "{outcomes:?}");
    // "Command abort requested".
    assert_eq!(outcomes[1].status, (0, 7), "{outcomes:?}");
    // What has ended cannot be aborted.
    assert!(!one(&host, "slow", abort(0)).success);
    host.shutdown().unwrap();
}

/// A request that waits for a buffer is no handler's yet.
#[test]
fn an_abort_ends_a_request_that_waits_for_a_buffer() {
    let mut host = target().start().unwrap();
    slow(&host, json!({ "delay_us": 300_000 }));
    let abort = json!({ "kind": "abort", "target": 1499 });
    let outcomes = probe(&host, "slow", &[many_reads(), abort]);
    assert!(outcomes[1499].failed() && outcomes[1500].success, "{:?}", &outcomes[1499..]);
    assert!(outcomes[..1499].iter().all(|outcome| outcome.success));
    host.shutdown().unwrap();
}

/// It is submitted again, also where there is no other request whose end could be waited for.
#[test]
fn no_memory_is_retried() {
    let mut host = target().start().unwrap();
    slow(&host, json!({ "no_memory": 5 }));
    assert!(one(&host, "slow", op("write", 0, 8, 3)).success);
    assert_eq!(one(&host, "slow", op("read", 0, 8, 0)).data, Some(3));
    host.shutdown().unwrap();
}

/// A future may hold what is aligned to more than a request's own memory is.
#[test]
fn futures_are_aligned() {
    let mut host = target().start().unwrap();
    slow(&host, json!({ "delay_us": 100 }));
    let flush = json!({ "kind": "flush", "blocks": 8, "repeat": 300 });
    let outcomes = probe(&host, "slow", &[flush]);
    assert!(outcomes.iter().all(|outcome| outcome.success), "{}", host.log());
    host.shutdown().unwrap();
}

/// Whatever its module says of it, no channel is an error.
#[test]
fn a_channel_may_fail() {
    let mut host = target().start().unwrap();
    for errno in [28, 0, -5, i32::MIN, i32::MAX] {
        slow(&host, json!({ "channel_errno": errno }));
        let ops = [op("read", 0, 8, 0)];
        let error = host.call::<Value>("prober_run", json!({ "bdev": "slow", "ops": ops }));
        assert!(error.unwrap_err().to_string().contains("no channel"), "{errno}");
        assert!(host.call::<bool>("bdev_chaos_delete", json!({ "name": "slow" })).unwrap());
    }
    host.shutdown().unwrap();
}

/// Their handlers are woken from a thread that SPDK does not know.
#[test]
fn handlers_are_woken_from_elsewhere() {
    let mut host = target().start().unwrap();
    slow(&host, json!({ "foreign": true, "delay_us": 100 }));
    let writes: Vec<_> = (0..64).map(|i| op("write", 8 * i, 8, i as u8)).collect();
    assert!(probe(&host, "slow", &writes).iter().all(|outcome| outcome.success));
    let reads: Vec<_> = (0..64).map(|i| op("read", 8 * i, 8, 0)).collect();
    let data: Vec<_> = probe(&host, "slow", &reads).iter().map(|o| o.data.unwrap()).collect();
    assert_eq!(data, (0..64).collect::<Vec<u8>>());
    // A reset drops handlers whose wake is still to come.
    let reads = json!({ "kind": "read", "blocks": 8, "repeat": 64 });
    for _ in 0..20 {
        let outcomes = probe(&host, "slow", &[reads.clone(), json!({ "kind": "reset" })]);
        assert!(outcomes[64].success, "{:?}", outcomes[64]);
    }
    host.shutdown().unwrap();
}

/// A handler that panics while a reset drops it: its request fails, and the reset goes on.
#[test]
fn a_panic_in_a_cancelled_handler() {
    let mut host = target().start().unwrap();
    slow(&host, json!({ "panic": "read drop", "delay_us": 20_000_000 }));
    let outcomes = probe(
        &host,
        "slow",
        &[op("read", 0, 8, 0), op("read", 8, 8, 0), json!({ "kind": "reset" })],
    );
    assert!(outcomes[0].failed() && outcomes[1].failed(), "{outcomes:?}");
    assert!(host.log().contains("chaos in a drop"));
    assert!(host.call::<bool>("bdev_chaos_delete", json!({ "name": "slow" })).unwrap());
    host.shutdown().unwrap();
}
