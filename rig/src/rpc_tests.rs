use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use serde_json::json;

use super::*;

/// A server that, for each connection, reads one request and writes the pieces given for it, pausing between them.
fn server(replies: Vec<Vec<&'static str>>) -> (tempfile::TempDir, PathBuf, JoinHandle<Vec<Value>>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rpc.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || {
        let serve = |pieces: Vec<&str>| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut json = serde_json::Deserializer::from_reader(stream.try_clone().unwrap());
            let request = Value::deserialize(&mut json).unwrap();
            for piece in pieces {
                // The client may be gone: that is what some tests are about.
                let _ = stream.write_all(piece.as_bytes());
                thread::sleep(Duration::from_millis(20));
            }
            request
        };
        replies.into_iter().map(serve).collect()
    });
    (dir, path, thread)
}

fn connect(path: &Path) -> RpcClient {
    RpcClient::connect(path, Duration::from_secs(5)).unwrap()
}

#[test]
fn a_reply_may_come_in_pieces() {
    let pieces = vec!["{\"jsonrpc\":\"2.0\",\"id\"", ":1,\"resul", "t\":{\"a\":[1,2", "]}}\n"];
    let (_dir, path, thread) = server(vec![pieces]);
    let result: Value = connect(&path).call("m", json!({ "x": 1 })).unwrap();
    assert_eq!(result, json!({ "a": [1, 2] }));
    let request = thread.join().unwrap().remove(0);
    assert_eq!(request, json!({ "jsonrpc": "2.0", "id": 1, "method": "m", "params": { "x": 1 } }));
}

#[test]
fn two_replies_in_one_piece_are_told_apart() {
    let (_dir, path, _thread) =
        server(vec![vec!["{\"id\":1,\"result\":\"one\"}\n{\"id\":2,\"result\":\"two\"}\n"]]);
    let mut client = connect(&path);
    assert_eq!(client.call::<String>("m", ()).unwrap(), "one");
    assert_eq!(client.receive::<String>("m", 2).unwrap(), "two");
}

#[test]
fn no_params_are_left_out() {
    let (_dir, path, thread) = server(vec![vec!["{\"id\":1,\"result\":true}"]]);
    assert!(connect(&path).call::<bool>("m", ()).unwrap());
    assert!(thread.join().unwrap()[0].get("params").is_none());
}

#[test]
fn replies_to_others_are_skipped() {
    let (_dir, path, _thread) =
        server(vec![vec!["{\"id\":7,\"result\":1}", "{\"id\":1,\"result\":2}"]]);
    assert_eq!(connect(&path).call::<u32>("m", ()).unwrap(), 2);
}

#[test]
fn the_servers_error_is_kept() {
    let reply = "{\"id\":1,\"error\":{\"code\":-32602,\"message\":\"params.x: no\"}}";
    let (_dir, path, _thread) = server(vec![vec![reply]]);
    let error = connect(&path).call::<Value>("m", ()).unwrap_err();
    assert_eq!(error.code(), Some(-32602));
    assert_eq!(error.to_string(), "JSON-RPC method 'm' failed with -32602: params.x: no");
}

#[test]
fn a_wrong_result_names_its_path() {
    let (_dir, path, _thread) = server(vec![vec!["{\"id\":1,\"result\":[{\"a\":\"x\"}]}"]]);
    #[derive(Debug, Deserialize)]
    struct Item {
        #[expect(dead_code, reason = "only its type matters")]
        a: u32,
    }
    let error = connect(&path).call::<Vec<Item>>("m", ()).unwrap_err();
    assert!(error.to_string().contains("[0].a"), "{error}");
}

#[test]
fn a_client_recovers_from_a_time_out() {
    let (_dir, path, _thread) = server(vec![
        vec!["{\"id\":1,", "\"res", "ult\":1}", "", "", "", ""],
        vec!["{\"id\":2,\"result\":5}"],
    ]);
    let mut client = RpcClient::connect(&path, Duration::from_millis(30)).unwrap();
    let error = client.call::<u32>("m", ()).unwrap_err();
    assert!(matches!(error, RpcError::Timeout { .. }), "{error}");
    client.set_timeout(Duration::from_secs(5));
    assert_eq!(client.call::<u32>("m", ()).unwrap(), 5);
}

#[test]
fn a_closed_connection_is_an_io_error() {
    let (_dir, path, _thread) = server(vec![vec!["{\"id\":1,"]]);
    let error = connect(&path).call::<u32>("m", ()).unwrap_err();
    assert!(matches!(error, RpcError::Io { .. }), "{error}");
}

#[test]
fn raw_bytes_get_the_raw_reply() {
    let reply = "{\"id\":null,\"error\":{\"code\":-32700,\"message\":\"Parse error\"}}";
    let (_dir, path, _thread) = server(vec![vec![reply]]);
    let value = connect(&path).call_raw(b"{}").unwrap();
    assert_eq!(value["error"]["code"], -32700);
}
