//! SPDK's official Python client, its newest release.

use serde_json::Value;
use spdk_plugin_tests::{Host, Program, PythonClient, in_every_program};

struct Client<'a> {
    client: PythonClient,
    host: &'a Host,
}

impl Client<'_> {
    fn call(&self, args: &[&str]) -> spdk_plugin_tests::Result<String> {
        self.client.call(&self.host.socket(), args.iter().copied())
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.call(args).unwrap();
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error} in {output}"))
    }
}

in_every_program! {
    fn it_lists_our_methods_and_reads_our_bdevs(program) {
        let host = program.start();
        let client = Client { client: PythonClient::install().unwrap(), host: &host };
        let methods = client.json(&["rpc_get_methods"]);
        for module in ["ram", "rnull"] {
            for action in ["create", "delete", "resize"] {
                let method = format!("bdev_{module}_{action}");
                let found = methods.as_array().unwrap().iter().filter(|name| **name == *method);
                assert_eq!(found.count(), 1, "{method}");
            }
        }
        let params = serde_json::json!({ "name": "disk", "num_blocks": 2048, "block_size": 512 });
        let created: String = host.call("bdev_ram_create", params).unwrap();
        assert_eq!(created, "disk");
        let bdevs = client.json(&["bdev_get_bdevs"]);
        assert_eq!((&bdevs[0]["name"], &bdevs[0]["num_blocks"]), (&"disk".into(), &2048.into()));
        assert_eq!(bdevs[0]["product_name"], "RAM disk in Rust");
    }
}

/// The client's command line does not know our methods, but its library sends what it is given.
#[test]
fn it_calls_our_methods() {
    let mut host = Program::SpdkTgt.start();
    let script = "
import sys
from spdk.rpc.client import JSONRPCClient, JSONRPCException
client = JSONRPCClient(sys.argv[1])
assert client.call('bdev_ram_create', {'name': 'disk', 'num_blocks': 2048, 'block_size': 512}) == 'disk'
assert [bdev['name'] for bdev in client.call('bdev_get_bdevs')] == ['disk']
try:
    client.call('bdev_ram_create', {'name': 'disk', 'num_blocks': 2048, 'block_size': 512})
    sys.exit('made twice')
except JSONRPCException as error:
    assert 'already; choose another name' in error.message, error.message
assert client.call('bdev_ram_resize', {'name': 'disk', 'num_blocks': 4096}) is True
assert client.call('bdev_get_bdevs', {'name': 'disk'})[0]['num_blocks'] == 4096
assert client.call('bdev_ram_delete', {'name': 'disk'}) is True
assert client.call('bdev_get_bdevs') == []
";
    let client = PythonClient::install().unwrap();
    let python = client.path().with_file_name("python");
    let mut python = std::process::Command::new(python);
    let output = python.args(["-c", script]).arg(host.socket()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    host.shutdown().unwrap();
}
