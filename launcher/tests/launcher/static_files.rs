//! `plugins/static-files` serves a directory, in both builds, and nothing beside it.

use std::fs;

use crate::harness::http::{Connection, Response, fetch};
use crate::harness::{Site, guests, process};

/// Runs a promise against both builds, with a tree to serve.
fn both(promise: impl Fn(&str, &str, u32)) {
    let site = Site::new();
    site.write("secret.txt", "secret");
    site.write("public/index.html", "<p>index</p>");
    site.write("public/docs/index.html", "<p>docs</p>");
    site.write("public/.hidden", "hidden");
    site.write("public/numbers.txt", (0..100_000).map(|n| format!("{n}\n")).collect::<String>());
    site.link("public/out", "../secret.txt");
    site.link("public/passwd", "/etc/passwd");
    site.link("public/inside", "docs/index.html");
    let big = fs::File::create(site.path("public/big.bin")).expect("make a file");
    big.set_len(1 << 30).expect("a sparse file");
    let root = site.path("public").display().to_string();
    for (plugin, config) in [
        (guests::native("static-files"), format!("config: {{ root: {root} }}")),
        (
            guests::wasm("static-files"),
            format!("config: {{ root: /srv }}, wasm: {{ dirs: [{{ host: {root}, guest: /srv, mode: ro }}] }}"),
        ),
    ] {
        let plugin = plugin.display().to_string();
        let mut launcher = site
            .run(&format!("services: {{ files: {{ plugin: {plugin}, listen: 127.0.0.1:0, workers: 1, {config} }} }}"));
        promise(&plugin, &launcher.address("files"), launcher.workers(1)[0]);
        launcher.stop();
    }
}

fn ask(address: &str, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut connection = Connection::open(address).expect("connect");
    connection.request(method, target, headers, b"").unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

#[test]
fn files_indexes_and_redirects() {
    both(|plugin, address, _| {
        let index = fetch(address, "/");
        assert_eq!((index.status(), index.text().as_str()), (200, "<p>index</p>"), "{plugin}");
        assert_eq!(index.head.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(fetch(address, "/docs/").text(), "<p>docs</p>", "{plugin}");
        assert_eq!(fetch(address, "/inside").text(), "<p>docs</p>", "{plugin}");
        let redirect = fetch(address, "/docs?q");
        assert_eq!((redirect.status(), redirect.head.header("location")), (308, Some("/docs/?q")), "{plugin}");
        let head = ask(address, "HEAD", "/numbers.txt", &[]);
        assert_eq!((head.status(), head.head.header("content-length")), (200, Some("588890")), "{plugin}");
        assert_eq!(ask(address, "POST", "/", &[]).head.header("allow"), Some("GET, HEAD"), "{plugin}");
    });
}

#[test]
fn there_is_no_way_out_of_the_root() {
    both(|plugin, address, _| {
        for target in [
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/docs/../../secret.txt",
            "/docs/%2e%2e%2f%2e%2e%2fsecret.txt",
            "/out",
            "/passwd",
            "/.hidden",
            "/%00",
            "//etc/passwd",
        ] {
            let response = fetch(address, target);
            assert_eq!(response.status(), 404, "{plugin}: {target}: {}", response.text());
        }
    });
}

#[test]
fn ranges_and_validators() {
    both(|plugin, address, _| {
        let one = ask(address, "GET", "/numbers.txt", &[("range", "bytes=2-5")]);
        assert_eq!((one.status(), one.text().as_str()), (206, "1\n2\n"), "{plugin}");
        assert_eq!(one.head.header("content-range"), Some("bytes 2-5/588890"), "{plugin}");
        let last = ask(address, "GET", "/numbers.txt", &[("range", "bytes=-6")]);
        assert_eq!(last.text(), "99999\n", "{plugin}");
        let many = ask(address, "GET", "/numbers.txt", &[("range", "bytes=0-1,4-5")]);
        assert_eq!(many.status(), 206, "{plugin}");
        assert!(many.head.header("content-type").is_some_and(|ct| ct.starts_with("multipart/byteranges")), "{plugin}");
        assert!(many.text().contains("content-range: bytes 4-5/588890\r\n\r\n2\n\r\n--"), "{plugin}: {}", many.text());
        let beyond = ask(address, "GET", "/numbers.txt", &[("range", "bytes=600000-")]);
        assert_eq!((beyond.status(), beyond.head.header("content-range")), (416, Some("bytes */588890")), "{plugin}");

        let whole = fetch(address, "/numbers.txt");
        let etag = whole.head.header("etag").expect("an ETag");
        let since = whole.head.header("last-modified").expect("Last-Modified");
        assert_eq!(ask(address, "GET", "/numbers.txt", &[("if-none-match", etag)]).status(), 304, "{plugin}");
        assert_eq!(ask(address, "GET", "/numbers.txt", &[("if-modified-since", since)]).status(), 304, "{plugin}");
        assert_eq!(ask(address, "GET", "/numbers.txt", &[("if-none-match", "\"x\"")]).status(), 200, "{plugin}");
        let stale = [("range", "bytes=0-1"), ("if-range", "\"x\"")];
        assert_eq!(ask(address, "GET", "/numbers.txt", &stale).status(), 200, "{plugin}");
    });
}

#[test]
fn a_gibibyte_is_served_in_bounded_memory() {
    both(|plugin, address, worker| {
        let mut connection = Connection::open(address).expect("connect");
        connection.send_head("GET", "/big.bin", &[]).expect("send");
        let head = connection.head("GET").expect("a head");
        let mut received = 0_u64;
        connection.body(&head, |part| received += part.len() as u64).expect("the whole body");
        assert_eq!(received, 1 << 30, "{plugin}");
        let peak = process::peak_resident(worker);
        assert!(peak < 160 << 10, "{plugin}: the worker had {peak} KiB resident");
    });
}
