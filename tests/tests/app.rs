//! An app of one's own: its command line and its end.

use std::time::Duration;

use serde_json::{Value, json};
use spdk_plugin_tests::{Output, Program, bdevs};

const SOON: Duration = Duration::from_secs(30);

#[track_caller]
fn run(args: &[&str]) -> Output {
    Program::App.builder().args(args.iter().copied()).run(SOON).unwrap()
}

#[test]
fn its_command_line_is_spdks() {
    let help = run(&["--help"]);
    assert!(help.status.success(), "{}", help.log);
    for option in ["--wait-for-rpc", "--json", "--rpc-socket"] {
        assert!(help.log.contains(option), "{}", help.log);
    }
    let version = run(&["--version"]);
    assert!(version.status.success() && version.log.contains("SPDK v"), "{}", version.log);
    let bad = run(&["--no-such-option"]);
    assert!(!bad.status.success() && bad.log.contains("no-such-option"), "{}", bad.log);
}

#[test]
fn a_configuration_that_fails_ends_it() {
    let config = json!({ "subsystems": [{ "subsystem": "bdev", "config": [
        { "method": "bdev_ram_create", "params": { "name": "disk", "num_blocks": 0, "block_size": 512 } },
    ] }] });
    let output = Program::App.builder().config(config).run(SOON).unwrap();
    assert!(!output.status.success(), "{}", output.log);
    assert!(output.log.contains("num_blocks is 0"), "{}", output.log);
}

#[test]
fn it_can_wait_for_rpcs() {
    for program in [Program::SpdkTgt, Program::App] {
        let mut host = program.builder().wait_for_rpc().start().unwrap();
        let params = json!({ "name": "disk", "num_blocks": 2048, "block_size": 512 });
        let early = host.call::<Value>("bdev_ram_create", &params).unwrap_err();
        assert_eq!(early.code(), Some(-1), "{early}");
        assert!(host.call::<bool>("framework_start_init", ()).unwrap());
        assert!(host.call::<bool>("framework_wait_init", ()).unwrap());
        assert_eq!(host.call::<String>("bdev_ram_create", &params).unwrap(), "disk");
        assert_eq!(bdevs(&host), ["disk"]);
        host.shutdown().unwrap();
    }
}
