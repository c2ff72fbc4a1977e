//! `master.admin` tells a load balancer and a monitor the truth.

use std::io::Write;
use std::net::TcpStream;

use crate::harness::http::fetch;
use crate::harness::launcher::eventually;
use crate::harness::{Launcher, Site, guests};

fn admin(launcher: &Launcher) -> String {
    launcher.address("master")
}

#[test]
fn a_service_without_workers_makes_the_launcher_unready_and_a_good_file_heals_it() {
    let site = Site::new();
    site.write("good.wasm", guests::hello(1));
    site.write("bad.wasm", "no component");
    let launcher = site.run(
        "
services:
  good: { plugin: good.wasm, listen: 127.0.0.1:0, workers: 2 }
  bad: { plugin: bad.wasm, listen: 127.0.0.1:0, workers: 1 }
",
    );
    let admin = admin(&launcher);
    assert_eq!(fetch(&admin, "/livez").status(), 200);
    let unready = fetch(&admin, "/readyz");
    assert_eq!((unready.status(), unready.text().as_str()), (503, "not ready: bad\n"));
    let metrics = fetch(&admin, "/metrics").text();
    assert!(metrics.contains("launcher_workers_ready{service=\"good\"} 2\n"), "{metrics}");
    assert!(metrics.contains("launcher_workers_ready{service=\"bad\"} 0\n"), "{metrics}");
    let mark = launcher.mark();
    site.replace("bad.wasm", guests::hello(2));
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    assert_eq!(fetch(&admin, "/readyz").status(), 200);
    assert!(fetch(&admin, "/").text().contains("bad: serving, 1 of 1 workers, generation 1, bad.wasm"));
    assert_eq!(fetch(&admin, "/else").status(), 404);
}

#[test]
fn clients_that_say_nothing_do_not_hold_up_the_supervision() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run("services: { hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 1 } }");
    let admin = admin(&launcher);
    let silent: Vec<_> = (0..200)
        .map(|_| {
            let mut client = TcpStream::connect(&admin).expect("connect");
            client.write_all(b"GET /metr").expect("write half a request");
            client
        })
        .collect();
    let address = launcher.address("hello");
    let mark = launcher.mark();
    site.replace("hello.wasm", guests::hello(2));
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    assert!(eventually(|| fetch(&address, "/").text() == guests::greeting(2)), "the new code does not answer");
    drop(silent);
}
