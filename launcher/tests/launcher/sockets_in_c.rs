//! Plugins in C that own their sockets: what `worker.h` gives them.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::http::fetch;
use crate::harness::{Site, guests, process};

#[test]
fn several_sockets_arrive_with_their_names_and_kinds() {
    let site = Site::new();
    compile(&site, "names", NAMES);
    let mut launcher = site.run(
        "services: { s: { plugin: names.so, workers: 1, listen: [127.0.0.1:0, { name: dns, address: 'udp://127.0.0.1:0' },
         { name: local, address: 'unix:s.sock' }] } }",
    );
    let lines = launcher.wait_lines(3, "the sockets", |line| line.text.contains("socket "));
    let said: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    assert!(said[0].contains("socket 127.0.0.1:0 1 127.0.0.1:"), "{said:?}");
    assert!(said[1].contains("socket dns 2 udp://127.0.0.1:"), "{said:?}");
    assert!(said[2].contains("socket local 3 unix:") && said[2].contains("s.sock"), "{said:?}");
    launcher.stop();
}

/// Builds a plugin in C, `NAME.so` in the site.
fn compile(site: &Site, name: &str, source: &str) {
    let file = site.path(format!("{name}.c"));
    site.write(&format!("{name}.c"), source);
    let built = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(site.path(format!("{name}.so")))
        .arg("-I")
        .arg(guests::project().join("worker-sdk/include"))
        .arg(file)
        .arg("-lpthread")
        .output()
        .expect("start cc");
    assert!(built.status.success(), "{built:?}");
}

#[test]
fn a_loop_in_c_may_turn_the_workers() {
    let site = Site::new();
    compile(&site, "turner", TURNER);
    let mut launcher = site
        .run("services: { s: { plugin: turner.so, workers: 1, listen: 127.0.0.1:0, stop: { drain_timeout: 40s } } }");
    launcher.wait_lines(1, "a thread's turn", |line| line.text.contains("elsewhere: -1"));
    let ready = launcher.wait("ready", |event| event.is("ready"));
    let threads = process::tasks(ready.number("pid") as u32);
    assert_eq!(threads.len(), 2, "{threads:?}");
    let since = Instant::now();
    launcher.stop();
    assert!(since.elapsed() < Duration::from_secs(20), "it was killed\n{}", launcher.story());
    let exited = launcher.wait("exited", |event| event.is("exited"));
    assert_eq!(exited.number("code"), 0, "{}", launcher.story());
}

/// It waits for its worker only, and is told to stop by the flag, which is set in a turn.
const TURNER: &str = r#"
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include "worker.h"

static const launcher_host *host;
static int32_t init(const launcher_host *h, void **state, launcher_chunk *error)
{ (void)state; (void)error; host = h; return LAUNCHER_READY; }

static void *elsewhere(void *sockets)
{ return (void *)(ptrdiff_t)((const launcher_sockets *)sockets)->turn(((const launcher_sockets *)sockets)->host); }

static int32_t serve(void *state, const launcher_sockets *sockets, launcher_chunk *error)
{
    (void)state; (void)error;
    pthread_t thread;
    void *code;
    if (pthread_create(&thread, NULL, elsewhere, (void *)sockets) != 0 || pthread_join(thread, &code) != 0)
        return LAUNCHER_ERROR;
    char text[64];
    int length = snprintf(text, sizeof text, "elsewhere: %d", (int)(ptrdiff_t)code);
    launcher_str said = { (const uint8_t *)text, (size_t)length };
    host->log(LAUNCHER_LOG_INFO, said, NULL, 0);
    sockets->ready(sockets->host);
    struct pollfd worker = { .fd = sockets->worker_descriptor, .events = POLLIN };
    while (!__atomic_load_n(sockets->stop_flag, __ATOMIC_ACQUIRE)) {
        sockets->at_work(sockets->host, 0);
        poll(&worker, 1, -1);
        sockets->at_work(sockets->host, 1);
        while (sockets->turn(sockets->host) == LAUNCHER_READY) {}
    }
    return LAUNCHER_READY;
}

const launcher_plugin_t launcher_plugin = { .magic = LAUNCHER_MAGIC, .abi = LAUNCHER_ABI, .size = sizeof(launcher_plugin_t),
    .kind = LAUNCHER_KIND_SOCKET, .flags = LAUNCHER_PLUGIN_TURNS_WORKER, .name = "turner", .version = "1", .init = init,
    .serve = serve };
"#;

const NAMES: &str = r#"
#include <poll.h>
#include <stdio.h>
#include "worker.h"

static const launcher_host *host;
static int32_t init(const launcher_host *h, void **state, launcher_chunk *error)
{ (void)state; (void)error; host = h; return LAUNCHER_READY; }

static int32_t serve(void *state, const launcher_sockets *sockets, launcher_chunk *error)
{
    (void)state; (void)error;
    for (size_t i = 0; i < sockets->listeners_len; i++) {
        const launcher_listener *it = sockets->listeners[i];
        char text[512];
        int length = snprintf(text, sizeof text, "socket %.*s %u %.*s", (int)it->name.len, (const char *)it->name.ptr,
                              it->kind, (int)it->address.len, (const char *)it->address.ptr);
        launcher_str said = { (const uint8_t *)text, (size_t)length };
        host->log(LAUNCHER_LOG_INFO, said, NULL, 0);
    }
    sockets->ready(sockets->host);
    struct pollfd stop = { .fd = sockets->stop_descriptor, .events = POLLIN };
    while (poll(&stop, 1, -1) < 1) {}
    return LAUNCHER_READY;
}

const launcher_plugin_t launcher_plugin = { .magic = LAUNCHER_MAGIC, .abi = LAUNCHER_ABI, .size = sizeof(launcher_plugin_t),
    .kind = LAUNCHER_KIND_SOCKET, .name = "names", .version = "1", .init = init, .serve = serve };
"#;

#[test]
fn a_plugin_built_before_there_were_sockets_serves_on() {
    let site = Site::new();
    let header = fs::read_to_string(guests::project().join("worker-sdk/include/worker.h")).expect("read the header");
    let (before, after) = header.split_once("    /* READY when it was told to stop").expect("the youngest field");
    let (_, after) = after.split_once("launcher_chunk *error);\n").expect("its end");
    site.write("worker.h", format!("{before}{after}"));
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-I"])
        .arg(site.path(""))
        .arg(guests::project().join("plugins/hello-c/hello.c"))
        .arg("-o")
        .arg(site.path("old.so"))
        .arg("-lpthread")
        .output()
        .expect("start cc");
    assert!(built.status.success(), "{built:?}");
    let launcher = site.run("services: { s: { plugin: old.so, workers: 1, listen: 127.0.0.1:0 } }");
    assert!(fetch(&launcher.address("s"), "/").text().starts_with("Hello from C"), "{}", launcher.story());
}
