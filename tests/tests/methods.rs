//! The modules' RPC methods, in a stock `spdk_tgt` and in an app that they are linked into.

use std::path::PathBuf;
use std::sync::OnceLock;

use serde_json::{Value, json};
use spdk_plugin_tests::{
    Bdevperf, Build, Host, HostBuilder, PythonClient, RpcError, bdev, bdevs, modules, spdk,
};

/// The programs that the tests here run in.
fn targets() -> Vec<(&'static str, HostBuilder)> {
    let tgt = Host::builder(spdk(), "spdk_tgt").plugin(modules());
    let apps = apps().iter().map(|(link, app)| (*link, Host::builder(spdk(), app)));
    std::iter::once(("spdk_tgt", tgt)).chain(apps).collect()
}

/// The app with each linkage that the SPDK in use allows.
fn apps() -> &'static [(&'static str, PathBuf)] {
    static APPS: OnceLock<Vec<(&str, PathBuf)>> = OnceLock::new();
    APPS.get_or_init(|| {
        let links = ["static", "shared"].into_iter();
        let links = links.filter(|link| *link == "shared" || spdk().has_static());
        let build = |link| {
            let build = Build::package("spdk-plugin-test-app").env("SPDK_PLUGIN_LINK", link);
            let built = build.bin(spdk(), "spdk-plugin-test-app").unwrap();
            // The build with the other linkage takes its place.
            let app = built.with_file_name(format!("spdk-plugin-test-app-{link}"));
            std::fs::copy(built, &app).unwrap();
            (link, app)
        };
        links.map(build).collect()
    })
}

/// What `framework_get_config` tells of the bdevs of a module.
fn saved(host: &Host, method: &str) -> Vec<Value> {
    let config: Vec<Value> = host.call("framework_get_config", json!({ "name": "bdev" })).unwrap();
    config.into_iter().filter(|call| call["method"] == method).collect()
}

#[track_caller]
fn refused(host: &Host, method: &str, params: Value, code: i64, texts: &[&str]) {
    let error = host.call::<Value>(method, &params).unwrap_err();
    let RpcError::Remote { code: got, message, .. } = &error else { panic!("{method}: {error}") };
    assert_eq!(*got, code, "{message}");
    for text in texts {
        assert!(message.contains(text), "'{text}' is missing in: {message}");
    }
}

#[test]
fn bad_parameters_create_nothing() {
    for (target, host) in targets() {
        eprintln!("in {target}");
        let mut host = host.start().unwrap();
        let good = json!({ "name": "there", "num_blocks": 2048, "block_size": 512 });
        let _: String = host.call("bdev_ram_create", &good).unwrap();
        for method in ["bdev_ram_create", "bdev_rnull_create"] {
            let with = |key: &str, value: Value| {
                let mut params = json!({ "name": "new", "num_blocks": 2048, "block_size": 512 });
                params[key] = value;
                params
            };
            let refused =
                |params, code, texts: &[&str]| refused(&host, method, params, code, texts);
            refused(with("name", json!("there")), -17, &["\"there\"", "already"]);
            refused(with("name", json!("")), -32602, &["name", "1 to 255"]);
            refused(with("name", json!("x".repeat(300))), -32602, &["300 bytes", "1 to 255"]);
            refused(with("name", json!("a\u{0}b")), -32602, &["name"]);
            refused(with("num_blocks", json!(0)), -32602, &["num_blocks is 0", "1 to"]);
            refused(
                with("num_blocks", json!(1u64 << 63)),
                -32602,
                &["9223372036854775808", "1 to"],
            );
            refused(
                with("num_blocks", json!("many")),
                -32602,
                &["params.num_blocks", "expected u64"],
            );
            refused(with("num_blocks", json!(-1)), -32602, &["params.num_blocks", "expected u64"]);
            refused(with("num_blocks", json!(1.5)), -32602, &["params.num_blocks", "expected u64"]);
            refused(with("block_size", json!(0)), -32602, &["block_size is 0", "multiple of 512"]);
            refused(
                with("block_size", json!(513)),
                -32602,
                &["block_size is 513", "multiple of 512"],
            );
            refused(with("block_size", json!(1u64 << 32)), -32602, &["params.block_size", "u32"]);
            refused(with("uuid", json!("nonsense")), -32602, &["params.uuid"]);
            refused(with("colour", json!("blue")), -32602, &["params.colour", "unknown field"]);
            refused(json!({}), -32602, &["params.name", "missing"]);
            refused(json!([1, 2]), -32602, &["params"]);
        }
        // Larger than SPDK's request buffer was before 24.09: SPDK closes the connection there.
        let huge = json!({ "name": "x".repeat(1 << 20), "num_blocks": 2048, "block_size": 512 });
        match host.call::<Value>("bdev_ram_create", huge).unwrap_err() {
            RpcError::Remote { code, message, .. } => {
                assert_eq!(code, -32602, "{message}");
                assert!(message.len() < 400, "{message}");
            }
            error => eprintln!("a name of 1 MiB: {error}"),
        }
        let method = "bdev_ram_create";
        let large = json!({ "name": "new", "num_blocks": 1u64 << 40, "block_size": 512 });
        refused(&host, method, large, -12, &["no memory"]);
        for method in ["bdev_ram_delete", "bdev_rnull_delete"] {
            refused(&host, method, json!({ "name": "nobody" }), -19, &["\"nobody\""]);
        }
        let other = json!({ "name": "there" });
        refused(&host, "bdev_rnull_delete", other, -19, &["belongs to module ram, not to rnull"]);
        assert_eq!(bdevs(&host), ["there"]);
        host.shutdown().unwrap();
    }
}

#[test]
fn a_saved_configuration_makes_the_same_devices() {
    for (target, builder) in targets() {
        eprintln!("in {target}");
        let mut host = builder.clone().start().unwrap();
        let ram = json!({
            "name": "r0", "num_blocks": 4096, "block_size": 512, "write_unit_size": 4,
            "optimal_io_boundary": 64,
        });
        let _: String = host.call("bdev_ram_create", ram).unwrap();
        let uuid = "2a7ca8c8-bb6f-4a8b-9a6b-0b2a5f1c9f11";
        let null = json!({
            "name": "n0", "num_blocks": 4096, "block_size": 512, "uuid": uuid, "md_size": 8,
            "dif_type": 1,
        });
        let _: String = host.call("bdev_rnull_create", null).unwrap();
        let grown = json!({ "name": "r0", "num_blocks": 8192 });
        assert!(host.call::<bool>("bdev_ram_resize", grown).unwrap());
        let before = [saved(&host, "bdev_ram_create"), saved(&host, "bdev_rnull_create")];
        assert_eq!(before[0].len() + before[1].len(), 2);
        let shown = [bdev(&host, "r0"), bdev(&host, "n0")];
        assert_eq!(shown[0]["num_blocks"], 8192);
        assert_eq!(shown[1]["uuid"], uuid);
        let config: Value = host.call("framework_get_config", json!({ "name": "bdev" })).unwrap();
        host.shutdown().unwrap();

        // What another program writes of it is not ours to test: keep the calls of our own.
        let calls: Vec<&Value> = config
            .as_array()
            .unwrap()
            .iter()
            .filter(|call| call["method"].as_str().unwrap().starts_with("bdev_r"))
            .collect();
        let file = json!({ "subsystems": [{ "subsystem": "bdev", "config": calls }] });
        let mut again = builder.config(file).start().unwrap();
        let after = [saved(&again, "bdev_ram_create"), saved(&again, "bdev_rnull_create")];
        assert_eq!(before, after);
        assert_eq!(shown, [bdev(&again, "r0"), bdev(&again, "n0")]);
        again.shutdown().unwrap();
    }
}

#[test]
fn the_official_client_works() {
    let client = PythonClient::install().unwrap();
    let mut host = Host::builder(spdk(), "spdk_tgt").plugin(modules()).start().unwrap();
    let methods: Vec<String> = host.call("rpc_get_methods", ()).unwrap();
    for method in ["bdev_ram_create", "bdev_ram_delete", "bdev_ram_resize", "bdev_rnull_create"] {
        assert!(methods.iter().any(|m| m == method), "{method} is not in {methods:?}");
    }
    let listed = client.call(&host.socket(), ["rpc_get_methods"]).unwrap();
    assert!(listed.to_string().contains("bdev_ram_create"), "{listed}");
    let _: String = host
        .call("bdev_ram_create", json!({ "name": "r0", "num_blocks": 2048, "block_size": 512 }))
        .unwrap();
    let shown = client.call(&host.socket(), ["bdev_get_bdevs", "-b", "r0"]).unwrap();
    assert!(shown.to_string().contains("RAM disk in Rust"), "{shown}");
    assert!(host.call::<bool>("bdev_ram_delete", json!({ "name": "r0" })).unwrap());
    assert!(bdevs(&host).is_empty());
    host.shutdown().unwrap();
}

#[test]
fn a_bdev_grows_under_load() {
    let params = json!({ "name": "r0", "num_blocks": 4096, "block_size": 512 });
    let config = spdk_plugin_tests::Config::new().bdev("bdev_ram_create", params);
    let server = Bdevperf::new(spdk(), "verify")
        .plugin(modules())
        .config(config)
        .queue_depth(32)
        .seconds(3)
        .serve()
        .unwrap();
    let running = server.start().unwrap();
    for blocks in (8192..=65536).step_by(8192) {
        let grown = json!({ "name": "r0", "num_blocks": blocks });
        assert!(server.host().call::<bool>("bdev_ram_resize", grown).unwrap());
    }
    assert_eq!(bdev(server.host(), "r0")["num_blocks"], 65536);
    let shrunk = json!({ "name": "r0", "num_blocks": 4096 });
    let error = server.host().call::<bool>("bdev_ram_resize", shrunk).unwrap_err();
    assert!(error.to_string().contains("cannot shrink"), "{error}");
    let perf = running.finish().unwrap();
    assert!(perf.errors.is_empty(), "{:?}", perf.errors);
}
