//! Models by repository id, from a hub on this machine's loopback.

mod common;

use common::{etalon, fail, fixture, scratch, succeed};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Four words, so that a prompt can be read.
const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": null, "decoder": null, "truncation": null, "padding": null,
    "model": {"type": "WordLevel", "vocab": {"?": 0, "one": 1, "two": 2, "three": 3}, "unk_token": "?"}}"#;

struct Hub {
    endpoint: String,
    requests: Arc<AtomicUsize>,
}

/// Serves one repository, `tiny/llama`, the way that clients of hubs expect it.
fn hub() -> Hub {
    let folder = fixture("tiny/llama-gqa");
    let read = |name: &str| (name.to_owned(), std::fs::read(folder.join(name)).unwrap());
    let mut files = HashMap::from([read("config.json"), read("model.safetensors")]);
    files.insert("tokenizer.json".into(), TOKENIZER.into());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            answer(stream.unwrap(), &files);
        }
    });
    Hub { endpoint, requests }
}

fn answer(mut stream: TcpStream, files: &HashMap<String, Vec<u8>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut request, mut range) = (String::new(), None);
    reader.read_line(&mut request).unwrap();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(r) = line.to_lowercase().strip_prefix("range: bytes=") {
            let (from, to) = r.trim().split_once('-').unwrap();
            range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().ok()));
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let names: Vec<String> = files.keys().map(|n| format!(r#"{{"rfilename": "{n}"}}"#)).collect();
    let info = format!(r#"{{"sha": "{COMMIT}", "siblings": [{}]}}"#, names.join(", ")).into_bytes();
    let body = match path.strip_prefix("/tiny/llama/resolve/main/") {
        Some(name) => files.get(name),
        None if path.starts_with("/api/models/tiny/llama/revision/main") => Some(&info),
        None => None,
    };
    let Some(body) = body else {
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    let (from, to) = range.map_or((0, body.len()), |(a, b)| (a, b.map_or(body.len(), |b| (b + 1).min(body.len()))));
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\nETag: \"{:x}-{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        to - from,
        to - 1,
        body.len(),
        body.len(),
        path.len(),
    );
    // The client may leave early; what it makes of that is what the test sees.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[from..to]));
    let _ = stream.flush();
    let _ = stream.set_read_timeout(Some(std::time::Duration::from_millis(1)));
    let _ = reader.read(&mut [0]);
}

fn with_hub(hub: &Hub, home: &Path, args: &[&str]) -> Command {
    let mut c = etalon(args);
    c.env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", home).env("NO_PROXY", "127.0.0.1");
    c
}

#[test]
fn a_repository_is_fetched_once() {
    let (hub, home) = (hub(), scratch("hub"));
    let generate = ["generate", "--model", "tiny/llama", "--prompt", "one two three", "--max-tokens", "5", "--json"];
    let first = succeed(with_hub(&hub, &home, &generate));
    let value: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!(value["prompt_tokens"], 3);
    assert_eq!(value["tokens"].as_array().unwrap().len(), 5);
    let fetched = hub.requests.load(Ordering::SeqCst);
    let again: serde_json::Value = serde_json::from_str(&succeed(with_hub(&hub, &home, &generate))).unwrap();
    assert_eq!(again["tokens"], value["tokens"]);
    assert_eq!(hub.requests.load(Ordering::SeqCst), fetched + 1, "only the list of files is asked for again");

    // Without a network, what was fetched serves.
    let mut c = with_hub(&hub, &home, &["inspect", "tiny/llama@main", "--json"]);
    c.env("HF_ENDPOINT", "http://127.0.0.1:9");
    assert!(succeed(c).contains("\"Llama\""));
}

#[test]
fn what_the_hub_has_not_is_one_clear_line() {
    let (hub, home) = (hub(), scratch("none"));
    assert!(fail(with_hub(&hub, &home, &["inspect", "tiny/other"])).contains("tiny/other@main: no such file or folder here, and the hub"));
    assert!(fail(with_hub(&hub, &home, &["inspect", "tiny/llama@v7"])).contains("@v7"));
    let mut c = with_hub(&hub, &home, &["inspect", "tiny/llama"]);
    c.env("HF_ENDPOINT", "http://127.0.0.1:9");
    assert!(fail(c).contains("check the network"));
}
