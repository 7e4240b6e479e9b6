use super::*;

const OLD: &str = "Running I/O for 2 seconds...\n\
    \r Thread name: M0_1\n\r Core Mask: 0x1\n\
    \r M0                  :  800000.00 IOPS    3125.00 MiB/s\n\
    \r Thread name: M1_1\n\r Core Mask: 0x1\n\
    \r M1                  :  200000.00 IOPS     781.25 MiB/s\n\
    \r =====================================================\n\
    \r Total               : 1000000.00 IOPS    3906.25 MiB/s\n";

const NEW: &str = "Running I/O for 1 seconds...\n\n    Latency(us)\n\
    \r Device Information : runtime(s)       IOPS      MiB/s     Fail/s     TO/s    Average        min        max\n\
    Job: M0 (Core Mask 0x1, workload: verify, depth: 128, IO size: 4096)\n\
    \t Verification LBA range: start 0x0 length 0x2000\n\
    \t M0                  :       1.00  600000.00    2343.75       0.00     0.00     100.00      10.00     900.00\n\
    Job: a:b (Core Mask 0x2, workload: verify, depth: 128, IO size: 4096)\n\
    \t a:b                 :       1.00  200000.00     781.25       0.00     0.00     300.00      10.00     900.00\n\
    \r =========================\n\
    \r Total               :             800000.00    3125.00       0.00     0.00     150.00      10.00     900.00\n";

#[test]
fn the_old_table_is_read() {
    let perf = Perf::parse(OLD, 8).unwrap();
    assert_eq!(perf.jobs.len(), 2);
    assert_eq!(perf.jobs[0].name, "M0");
    assert_eq!((perf.jobs[0].iops, perf.jobs[0].mib_s), (800_000.0, 3125.0));
    assert_eq!(perf.jobs[0].latency_us, 10.0);
    assert_eq!((perf.iops, perf.mib_s), (1_000_000.0, 3906.25));
    assert_eq!(perf.latency_us, 16.0);
    assert!(perf.errors.is_empty());
}

#[test]
fn the_new_table_is_read() {
    let perf = Perf::parse(NEW, 128).unwrap();
    assert_eq!(perf.jobs.len(), 2);
    assert_eq!(perf.jobs[1].name, "a:b");
    assert_eq!((perf.iops, perf.latency_us), (800_000.0, 150.0));
    assert!(perf.errors.is_empty(), "{:?}", perf.errors);
}

#[test]
fn failures_are_errors() {
    let old = OLD.replace("3125.00 MiB/s\n", "3125.00 MiB/s\n\r    :  12.00 Fail/s  3.00 TO/s\n");
    let perf = Perf::parse(&old, 8).unwrap();
    assert_eq!((perf.jobs[0].fails_per_s, perf.jobs[0].timeouts_per_s), (12.0, 3.0));
    assert_eq!(perf.errors.len(), 2);
    let new = NEW.replace("2343.75       0.00", "2343.75       5.00");
    assert_eq!(Perf::parse(&new, 8).unwrap().errors.len(), 1);
}

#[test]
fn wrong_data_is_an_error_even_without_figures_of_use() {
    let log = "Buffer mismatch! Target: M0 Disk Offset: 8\n   First dword expected 0x1 got 0x0\n\
        Job run time less than one microsecond, no performance data will be shown\n\
        \r M0                  :        inf IOPS        inf MiB/s\n\
        \r Total               :       -nan IOPS        inf MiB/s\n";
    let perf = Perf::parse(log, 8).unwrap();
    assert_eq!(perf.iops, 0.0);
    assert_eq!(perf.errors, ["Buffer mismatch! Target: M0 Disk Offset: 8"]);
}

#[test]
fn no_table_is_no_result() {
    assert_eq!(Perf::parse("Running I/O for 1 seconds...\n", 8), None);
    assert_eq!(Perf::parse("\r Total               :       0.00 IOPS       0.00 MiB/s\n", 8), None);
}
