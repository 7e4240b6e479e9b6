//! Creating a device with bad parameters: a clear error, and nothing is created.

use serde_json::{Map, Value, json};
use spdk_plugin_tests::{Host, RpcError, at_least, bdevs, in_every_program};

const INVALID_PARAMS: i64 = -32602;

fn good(name: &str) -> Value {
    json!({ "name": name, "num_blocks": 2048, "block_size": 512 })
}

/// Good parameters, changed; `null` leaves one out.
fn but(change: Value) -> Value {
    let mut params = good("bad");
    for (key, value) in change.as_object().unwrap() {
        params.as_object_mut().unwrap().insert(key.clone(), value.clone());
    }
    let params: Map<_, _> =
        params.as_object().unwrap().clone().into_iter().filter(|(_, v)| !v.is_null()).collect();
    params.into()
}

#[track_caller]
fn refused(host: &Host, method: &str, params: Value, code: i64, text: &str) {
    let text_of = |params: &Value| params.to_string().chars().take(200).collect::<String>();
    let before = bdevs(host);
    let error = host.call::<Value>(method, &params).unwrap_err();
    let RpcError::Remote { code: got, message, .. } = &error else {
        panic!("{method} {}: {error}", text_of(&params));
    };
    assert_eq!(*got, code, "{method} {}: {message}", text_of(&params));
    assert!(message.contains(text), "{method} {}: {message}", text_of(&params));
    assert!(message.len() < 1000, "{method}: an error of {} bytes", message.len());
    assert_eq!(bdevs(host), before);
}

fn bad_creates(host: &Host, method: &str) {
    let taken = format!("{method}d");
    let _: String = host.call(method, good(&taken)).unwrap();
    let uuid = "b1e7c2a4-95a5-4b7c-8a34-2a1b5c9d7e01";
    let mut with_uuid = good(&format!("{method}d with uuid"));
    with_uuid["uuid"] = uuid.into();
    let _: String = host.call(method, with_uuid).unwrap();

    let refused = |params: Value, code: i64, text: &str| refused(host, method, params, code, text);
    let invalid = |change: Value, text: &str| refused(but(change), INVALID_PARAMS, text);

    refused(good(&taken), -17, &format!("there is a bdev \"{taken}\" already"));
    refused(but(json!({ "uuid": uuid })), -17, uuid);
    // From 22.05 on a UUID is a name, too.
    if at_least(22, 5) {
        refused(but(json!({ "name": uuid })), -17, "already");
    }
    invalid(json!({ "name": "" }), "a name of 0 bytes");
    invalid(json!({ "name": "a\nb" }), "control character");
    invalid(json!({ "name": "x".repeat(256) }), "a name of 256 bytes");
    invalid(json!({ "uuid": "no-uuid" }), "params.uuid:");

    invalid(json!({ "num_blocks": 0 }), "num_blocks is 0");
    invalid(json!({ "block_size": 0 }), "block_size is 0; it must be a multiple of 512");
    invalid(json!({ "block_size": 513 }), "block_size is 513; it must be a multiple of 512");
    invalid(json!({ "num_blocks": 1u64 << 63 }), "num_blocks is 9223372036854775808");
    invalid(json!({ "num_blocks": u64::MAX }), "num_blocks is 18446744073709551615");
    invalid(json!({ "num_blocks": 1u64 << 54, "block_size": 4096 }), "num_blocks is");

    invalid(json!({ "name": null }), "params.name: missing");
    invalid(json!({ "num_blocks": null }), "params.num_blocks: missing");
    invalid(json!({ "block_size": null }), "params.block_size: missing");
    refused(Value::Null, INVALID_PARAMS, "params.");
    refused(json!({}), INVALID_PARAMS, "missing");
    refused(json!([1, 2, 3]), INVALID_PARAMS, "params");

    invalid(json!({ "num_blocks": "2048" }), "params.num_blocks: expected u64, got string");
    invalid(json!({ "num_blocks": -1 }), "params.num_blocks: expected u64");
    invalid(json!({ "num_blocks": 1.5 }), "params.num_blocks: expected u64");
    invalid(json!({ "num_blocks": 1e30 }), "params.num_blocks: expected u64");
    invalid(json!({ "num_blocks": [] }), "params.num_blocks: expected u64");
    invalid(json!({ "num_blocks": {} }), "params.num_blocks: expected u64");
    invalid(json!({ "num_blocks": true }), "params.num_blocks: expected u64");
    invalid(json!({ "block_size": 1u64 << 32 }), "params.block_size: expected u32");
    invalid(json!({ "name": 5 }), "params.name: expected a string");
    invalid(json!({ "name": ["a"] }), "params.name: expected a string");
    invalid(json!({ "size": 5 }), "params.size: unknown field");
    invalid(json!({ "x".repeat(1000): 5 }), "unknown field");

    // Whether or not the server takes so long a request, nothing comes of it.
    let before = bdevs(host);
    let long = host.call::<Value>(method, but(json!({ "name": "x".repeat(1 << 20) })));
    assert!(long.is_err(), "{long:?}");
    assert_eq!(bdevs(host), before);
}

in_every_program! {
    fn ram(program) {
        let mut host = program.start();
        bad_creates(&host, "bdev_ram_create");
        let refused = |change: Value, code: i64, text: &str| {
            refused(&host, "bdev_ram_create", but(change), code, text);
        };
        // More than there is.
        refused(json!({ "num_blocks": 1u64 << 40 }), -12, "bytes of DMA memory");
        refused(json!({ "write_unit_size": 2049 }), INVALID_PARAMS, "write unit of 2049 blocks");
        host.shutdown().unwrap();
    }

    fn null(program) {
        let mut host = program.start();
        bad_creates(&host, "bdev_rnull_create");
        let refused = |change: Value, text: &str| {
            refused(&host, "bdev_rnull_create", but(change), INVALID_PARAMS, text);
        };
        refused(json!({ "dif_type": 1 }), "DIF takes 8 bytes of metadata");
        refused(json!({ "dif_type": 4, "md_size": 8 }), "DIF type 4");
        refused(json!({ "md_size": 5000 }), "metadata of 5000 bytes");
        host.shutdown().unwrap();
    }

    fn other_methods(program) {
        let mut host = program.start();
        let _: String = host.call("bdev_ram_create", good("ram")).unwrap();
        let _: String = host.call("bdev_rnull_create", good("null")).unwrap();
        let params = json!({ "name": "malloc", "num_blocks": 2048, "block_size": 512 });
        let _: String = host.call("bdev_malloc_create", params).unwrap();

        let named = |name: &str| json!({ "name": name });
        let sized = |name: &str, blocks: u64| json!({ "name": name, "num_blocks": blocks });
        let check = |method: &str, params: Value, code: i64, text: &str| {
            refused(&host, method, params, code, text);
        };
        for module in ["ram", "rnull"] {
            let delete = format!("bdev_{module}_delete");
            check(&delete, named("nothing"), -19, "there is no bdev \"nothing\"");
            check(&delete, named("malloc"), -19, "belongs to module malloc");
            check(&delete, named("a\0b"), -19, "there is no bdev");
            check(&delete, json!({}), INVALID_PARAMS, "params.name: missing");
        }
        check("bdev_ram_delete", named("null"), -19, "belongs to module rnull");
        check("bdev_ram_resize", sized("nothing", 1), -19, "there is no bdev");
        check("bdev_ram_resize", sized("ram", 0), INVALID_PARAMS, "num_blocks is 0");
        check("bdev_ram_resize", sized("ram", 1 << 63), INVALID_PARAMS, "9223372036854775808");
        check("bdev_ram_resize", sized("ram", 1 << 40), -12, "bytes of DMA memory");
        check("bdev_ram_resize", named("ram"), INVALID_PARAMS, "params.num_blocks: missing");
        let resize = json!({ "name": "null", "new_size": 0 });
        check("bdev_rnull_resize", resize, INVALID_PARAMS, "params.new_size");
        let resize = json!({ "name": "null", "new_size": u64::MAX });
        check("bdev_rnull_resize", resize, INVALID_PARAMS, "num_blocks is");
        assert_eq!(bdevs(&host).len(), 3);
        host.shutdown().unwrap();
    }
}
