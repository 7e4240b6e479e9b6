//! The crate's JSON-RPC client, used by a plugin inside `spdk_tgt`.

use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use spdk_plugin_tests::{Config, Host, RpcClient, RpcError, bdevs, chaos, spdk, until};
use tempfile::TempDir;

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Result(Value),
    Error { code: i32, message: String },
    Failed { errno: i32, message: String },
    Dropped,
}

impl Outcome {
    #[track_caller]
    fn failed(&self) -> i32 {
        let Self::Failed { errno, .. } = self else { panic!("{self:?}") };
        *errno
    }
}

fn target() -> Host {
    Host::builder(spdk(), "spdk_tgt").plugin(chaos()).start().unwrap()
}

#[track_caller]
fn relay(host: &Host, to: Value, calls: &[Value]) -> Vec<Outcome> {
    let outcomes: Vec<Outcome> =
        host.call("chaos_relay", json!({ "to": to, "calls": calls })).unwrap();
    assert_eq!(outcomes.len(), calls.len());
    outcomes
}

#[track_caller]
fn one(host: &Host, to: Value, method: &str, params: Value) -> Outcome {
    relay(host, to, &[json!({ "method": method, "params": params })]).remove(0)
}

/// SPDK takes up to 1024 JSON values in a request.
const MOST: u64 = 75;

fn echo(value: impl Into<Value>, ms: u64) -> Value {
    json!({ "method": "chaos_echo", "params": { "value": value.into(), "ms": ms } })
}

#[test]
fn a_plugin_calls_its_own_process() {
    let mut host = target();
    let disk = json!({ "name": "disk", "num_blocks": 2048, "block_size": 512 });
    let made = one(&host, json!({}), "bdev_malloc_create", disk.clone());
    assert_eq!(made, Outcome::Result("disk".into()));
    assert_eq!(bdevs(&host), ["disk"]);
    // SPDK's own errors keep their code and their words.
    let Outcome::Error { code, message } = one(&host, json!({}), "bdev_malloc_create", disk) else {
        panic!("made twice");
    };
    let direct = host.call::<Value>(
        "bdev_malloc_create",
        json!({ "name": "disk", "num_blocks": 2048, "block_size": 512 }),
    );
    let Err(RpcError::Remote { code: direct, message: words, .. }) = direct else {
        panic!("made twice");
    };
    assert_eq!((i64::from(code), message), (direct, words));
    let Outcome::Error { code, message } = one(&host, json!({}), "no_such_method", json!({}))
    else {
        panic!("there is such a method");
    };
    assert_eq!((code, message.as_str()), (-32601, "Method not found"));
    // Some refuse parameters of any kind.
    let Outcome::Result(version) = one(&host, json!({}), "spdk_get_version", Value::Null) else {
        panic!("no version");
    };
    assert!(version["version"].as_str().unwrap().starts_with("SPDK"));
    let left = format!("spdk_plugin_rpc.{}.", host.pid());
    until("the end of the private servers", || {
        let mut files = std::env::temp_dir().read_dir().unwrap().map(|file| file.unwrap());
        !files.any(|file| file.file_name().to_string_lossy().starts_with(&left))
    });
    host.shutdown().unwrap();
}

/// While a configuration is loaded, some releases serve on another socket than later.
#[test]
fn a_configuration_calls() {
    let disk = |name: &str| json!({ "name": name, "num_blocks": 2048, "block_size": 512 });
    let call = |name: &str| json!({ "method": "bdev_malloc_create", "params": disk(name) });
    let early = json!({ "to": {}, "calls": [call("early")] });
    let config = Config::new().bdev("chaos_relay", early);
    let mut host =
        Host::builder(spdk(), "spdk_tgt").plugin(chaos()).config(config).start().unwrap();
    println!("{}", host.log());
    assert_eq!(bdevs(&host), ["early"]);
    assert_eq!(relay(&host, json!({}), &[call("late")])[0], Outcome::Result("late".into()));
    assert_eq!(bdevs(&host), ["early", "late"]);
    host.shutdown().unwrap();
}

#[test]
fn an_error_is_passed_on() {
    let mut host = target();
    let pass_on =
        |method: &str| host.call::<u64>("chaos_pass_on", json!({ "method": method })).unwrap_err();
    let error = pass_on("no_such_method");
    assert_eq!(error.code(), Some(-32601));
    assert!(error.to_string().contains("no_such_method: Method not found"), "{error}");
    // A version is no number: EPROTO.
    let error = pass_on("spdk_get_version");
    assert_eq!(error.code(), Some(-71));
    assert!(error.to_string().contains("the result of spdk_get_version: invalid type"), "{error}");
    host.shutdown().unwrap();
}

#[test]
fn replies_find_their_calls_in_any_order() {
    let mut host = target();
    let calls: Vec<Value> = (0..MOST).map(|i| echo(i, MOST - i)).collect();
    let outcomes = relay(&host, json!({}), &calls);
    for (i, outcome) in outcomes.iter().enumerate() {
        assert_eq!(*outcome, Outcome::Result(i.into()));
    }
    host.shutdown().unwrap();
}

#[test]
fn a_dropped_call_takes_nobodys_reply() {
    let mut host = target();
    for _ in 0..5 {
        let calls: Vec<Value> = (0..MOST)
            .map(|i| {
                let mut call = echo(i, i % 7);
                call["drop"] = (i % 3 != 0).into();
                call
            })
            .collect();
        for (i, outcome) in relay(&host, json!({}), &calls).into_iter().enumerate() {
            let expected = if i % 3 == 0 { Outcome::Result(i.into()) } else { Outcome::Dropped };
            assert_eq!(outcome, expected);
        }
    }
    host.shutdown().unwrap();
}

#[test]
fn large_requests_and_replies() {
    let mut host = target();
    let text = |bytes: usize| json!({ "method": "chaos_text", "params": { "bytes": bytes } });
    let padding = |bytes: usize| json!({ "method": "chaos_padding", "padding": bytes });
    let length = |outcome: &Outcome| match outcome {
        Outcome::Result(Value::String(text)) => text.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(length(&relay(&host, json!({}), &[text(10 << 20)])[0]), 10 << 20);
    let pads = relay(&host, json!({}), &vec![padding(30_000); 50]);
    assert!(pads.iter().all(|pad| *pad == Outcome::Result(30_000.into())), "{pads:?}");

    // Beyond the limit the call fails, and the next one has a new connection.
    let small = json!({ "max_reply": 1000 });
    assert_eq!(relay(&host, small.clone(), &[text(1001)])[0].failed(), libc::EMSGSIZE);
    assert_eq!(length(&relay(&host, small, &[text(900)])[0]), 900);
    // SPDK cuts off what is longer than 32 MiB.
    let cut = relay(&host, json!({}), &[text(40 << 20)]);
    assert_eq!(cut[0].failed(), libc::EMSGSIZE);
    // SPDK's server takes no request as long as this.
    assert_eq!(relay(&host, json!({}), &[padding(300_000)])[0].failed(), libc::ECONNRESET);
    assert_eq!(length(&relay(&host, json!({}), &[text(5)])[0]), 5);
    host.shutdown().unwrap();
}

#[test]
fn another_target_is_called_and_dies() {
    let mut host = target();
    let mut other = target();
    let to = json!({ "path": other.socket() });
    assert_eq!(relay(&host, to.clone(), &[echo("there", 1)])[0], Outcome::Result("there".into()));
    let lost = thread::scope(|scope| {
        let waiting = scope.spawn(|| relay(&host, to.clone(), &[echo(1, 60_000), echo(2, 60_000)]));
        until("the call", || other.call::<u64>("chaos_echoes", ()).unwrap() == 3);
        other.kill().unwrap();
        waiting.join().unwrap()
    });
    assert!(lost.iter().all(|lost| lost.failed() == libc::ECONNRESET), "{lost:?}");
    assert_eq!(relay(&host, to, &[echo(1, 0)])[0].failed(), libc::ECONNREFUSED);
    let nowhere = json!({ "path": "/nonexistent/socket" });
    assert_eq!(relay(&host, nowhere, &[echo(1, 0)])[0].failed(), libc::ENOENT);
    host.shutdown().unwrap();
}

/// The end of the program comes in the middle of a call: to itself, and to another.
#[test]
fn the_target_stops_while_calls_wait() {
    let mut host = target();
    let other = target();
    let remote = host.rpc().unwrap();
    thread::scope(|scope| {
        for to in [json!({}), json!({ "path": other.socket() })] {
            let mut client = RpcClient::connect(remote.path(), Duration::from_secs(60)).unwrap();
            let params = json!({ "to": to, "calls": [echo(1, 60_000)] });
            scope.spawn(move || client.call::<Value>("chaos_relay", params).unwrap_err());
        }
        let echoes = |host: &Host| host.call::<u64>("chaos_echoes", ()).unwrap();
        until("the calls", || echoes(&host) == 1 && echoes(&other) == 1);
        host.shutdown().unwrap();
    });
}

/// Serves one connection after the other by a script: for each, what it sends once a request has come.
struct Fake {
    dir: TempDir,
}

impl Fake {
    fn new(scripts: &[&[&str]]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let own = |script: &&[&str]| script.iter().map(|piece| (*piece).to_owned()).collect();
        let scripts: Vec<Vec<String>> = scripts.iter().map(own).collect();
        thread::spawn(move || {
            for script in scripts {
                let (stream, _) = listener.accept().unwrap();
                play(&stream, &stream, &script);
            }
        });
        Self { dir }
    }

    fn to(&self) -> Value {
        json!({ "path": self.dir.path().join("socket") })
    }
}

/// Sends each piece with `ID` replaced by that of the request; then closes.
fn play(input: impl Read, mut output: impl Write, script: &[String]) {
    let mut requests = serde_json::Deserializer::from_reader(BufReader::new(input)).into_iter();
    let request: Value = requests.next().unwrap().unwrap();
    assert_eq!((&request["jsonrpc"], &request["method"]), (&"2.0".into(), &"ask".into()));
    for piece in script {
        let text = piece.replace("ID", &request["id"].to_string());
        if output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_err() {
            return;
        }
    }
}

fn ask(host: &Host, to: Value) -> Outcome {
    one(host, to, "ask", Value::Null)
}

#[test]
fn strange_servers() {
    const GOOD: &str = r#"{"jsonrpc":"2.0","id":ID,"result":[1]}"#;
    let mut host = target();
    let answered = Outcome::Result(json!([1]));
    let once = |script: &[&str]| ask(&host, Fake::new(&[script]).to());

    assert_eq!(once(&["\n", r#"{"id":ID,"result":null}"#]), Outcome::Result(Value::Null));
    let torn = ["{\"id\":ID,", "\"result\":", "[\"}\\\"", "{\"]}"];
    assert_eq!(once(&torn), Outcome::Result(json!(["}\"{"])));
    // Replies to others, and second ones, are nobody's.
    assert_eq!(once(&[r#"{"id":4711,"result":2}{"id":"x","result":2}"#, GOOD, GOOD]), answered);

    let unread = r#"{"id":null,"error":{"code":-32700,"message":"Parse error"}}"#;
    assert_eq!(once(&[unread]), Outcome::Error { code: -32700, message: "Parse error".into() });
    let odd_code = r#"{"id":ID,"error":{"code":99999999999}}"#;
    assert_eq!(once(&[odd_code]), Outcome::Error { code: -32603, message: String::new() });

    for garbage in ["HTTP/1.1 400 Bad Request\r\n\r\n", "[]", r#"{"id":ID,"error":7}"#, "{]"] {
        assert_eq!(once(&[garbage]).failed(), libc::EBADMSG, "{garbage}");
    }
    // The loss of a connection is nothing to the next call.
    for early in ["", r#"{"id":ID,"result":"#] {
        let fake = Fake::new(&[&[early], &[GOOD], &[GOOD]]);
        assert_eq!(ask(&host, fake.to()).failed(), libc::ECONNRESET, "{early}");
        assert_eq!(ask(&host, fake.to()), answered);
        assert_eq!(ask(&host, fake.to()), answered);
    }
    // What is nested so deep that reading it would take all of the stack.
    let (open, close) = ("[".repeat(1 << 20), "]".repeat(1 << 20));
    let deep = format!("{{\"id\":ID,\"result\":{open}");
    assert_eq!(once(&[&deep]).failed(), libc::ECONNRESET);
    assert_eq!(once(&[&deep, &close, "}"]).failed(), libc::EPROTO);
    host.shutdown().unwrap();
}

/// However much comes, no more than the limit is kept.
#[test]
fn an_endless_reply() {
    let mut host = target();
    let fake = Fake::new(&[&["{\"id\":ID,\"result\":\"", &"x".repeat(20 << 20)]]);
    assert_eq!(ask(&host, fake.to()).failed(), libc::EMSGSIZE);
    host.shutdown().unwrap();
}

#[test]
fn by_tcp() {
    let mut host = target();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        play(&stream, &stream, &[r#"{"id":ID,"result":7}"#.into()]);
    });
    let to = json!({ "tcp": address });
    assert_eq!(ask(&host, to.clone()), Outcome::Result(7.into()));
    server.join().unwrap();
    assert_eq!(ask(&host, to).failed(), libc::ECONNREFUSED);
    host.shutdown().unwrap();
}

/// A server that neither reads nor answers holds up nobody but who asked it.
#[test]
fn a_server_that_does_nothing() {
    let host = target();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let to = json!({ "path": path });
    // More than the socket holds, so that some are sent in part, and some not at all.
    let mut calls = vec![json!({ "method": "ask", "padding": 100_000, "drop": true }); 20];
    let dropped = relay(&host, to.clone(), &calls);
    assert!(dropped.iter().all(|outcome| *outcome == Outcome::Dropped));
    for call in &mut calls {
        call["drop"] = false.into();
    }
    thread::scope(|scope| {
        let waiting = scope.spawn(|| relay(&host, to.clone(), &calls));
        for _ in 0..100 {
            assert!(host.call::<Value>("spdk_get_version", ()).is_ok());
        }
        // All that comes is whole requests, and the dropped ones that were not begun do not come.
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut ids = Vec::new();
        let requests = serde_json::Deserializer::from_reader(BufReader::new(&stream)).into_iter();
        for request in requests {
            let request: Value = request.unwrap();
            assert_eq!(request["params"]["padding"].as_str().unwrap().len(), 100_000);
            ids.push(request["id"].as_u64().unwrap());
            if ids.last() == Some(&40) {
                break;
            }
        }
        assert!(ids.is_sorted() && (21..30).contains(&ids.len()), "{ids:?}");
        assert_eq!(ids[ids.len() - 20..], Vec::from_iter(21..=40));
        drop(stream);
        let lost = waiting.join().unwrap();
        assert!(lost.iter().all(|lost| lost.failed() == libc::ECONNRESET), "{lost:?}");
    });
}
