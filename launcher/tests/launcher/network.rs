//! A guest reaches the peers of `wasm.network` and no other.

use crate::harness::http::fetch;
use crate::harness::launcher::eventually;
use crate::harness::peer::Peer;
use crate::harness::{Launcher, Site};

fn with_network(site: &Site, network: &str) -> Launcher {
    site.kitchen();
    site.run(&format!(
        "
services:
  kitchen:
    plugin: kitchen.wasm
    listen: 127.0.0.1:0
    wasm: {{ network: [{network}] }}
"
    ))
}

#[test]
fn a_peer_that_is_not_named_is_not_reached() {
    let site = Site::new();
    let (peer, other) = (Peer::start(), Peer::start());
    let launcher = with_network(&site, &format!("\"{}\"", other.address()));
    let address = launcher.address("kitchen");
    let response = fetch(&address, &format!("/fetch?url=http://{}/", peer.address()));
    assert_eq!(response.status(), 502, "{}", response.text());
    let response = fetch(&address, &format!("/connect?to={}", peer.address()));
    assert_eq!(response.status(), 403, "{}", response.text());
    // A name that resolves to loopback is not loopback named literally.
    let response = fetch(&address, &format!("/fetch?url=http://localhost:{}/", other.address().port()));
    assert_eq!(response.status(), 502, "{}", response.text());
    assert_eq!((peer.connections(), other.connections()), (0, 0), "somebody was reached");
}

#[test]
fn without_a_setting_nobody_is_reached() {
    let site = Site::new();
    let peer = Peer::start();
    let launcher = with_network(&site, "");
    let address = launcher.address("kitchen");
    assert_eq!(fetch(&address, &format!("/fetch?url=http://{}/", peer.address())).status(), 502);
    assert_eq!(fetch(&address, &format!("/connect?to={}", peer.address())).status(), 403);
    assert_eq!(fetch(&address, "/resolve?host=localhost").status(), 403);
    assert_eq!(peer.connections(), 0);
}

#[test]
fn a_peer_that_is_named_is_reached_by_http_and_by_a_socket() {
    let site = Site::new();
    let peer = Peer::start();
    let launcher = with_network(&site, &format!("\"{}\"", peer.address()));
    let address = launcher.address("kitchen");
    let response = fetch(&address, &format!("/fetch?url=http://{}/", peer.address()));
    assert_eq!(response.text(), "200 from the peer\n");
    let response = fetch(&address, &format!("/connect?to={}", peer.address()));
    assert_eq!(response.text(), "connected\n");
    // The guest is connected before the peer has accepted.
    assert!(eventually(|| peer.connections() == 2), "{} connections", peer.connections());
}
