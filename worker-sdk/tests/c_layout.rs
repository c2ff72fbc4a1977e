//! `include/worker.h` and `abi.rs` say the same: a C compiler checks every size, offset and constant.

use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use worker_sdk::abi;

macro_rules! layout {
    ($out:ident, $rust:ident as $c:ident { $($field:ident),* }) => {
        writeln!($out, "_Static_assert(sizeof({0}) == {1}, \"size of {0}\");", stringify!($c), size_of::<abi::$rust>()).expect("it works");
        $(writeln!(
            $out,
            "_Static_assert(offsetof({0}, {1}) == {2}, \"{0}.{1}\");",
            stringify!($c), stringify!($field), offset_of!(abi::$rust, $field)
        ).expect("it works");)*
        // Every field is named: the last one's end is the struct's.
        let _ = |value: abi::$rust| { let abi::$rust { $($field: _),* } = value; };
    };
}

macro_rules! constants {
    ($out:ident, $($name:ident),*) => {
        $(writeln!($out, "_Static_assert(LAUNCHER_{0} == {1}, \"{0}\");", stringify!($name), abi::$name).expect("it works");)*
    };
}

fn assertions() -> String {
    let mut out = String::from("#include \"worker.h\"\n");
    layout!(out, Str as launcher_str { ptr, len });
    layout!(out, Header as launcher_header { name, value });
    layout!(out, WakerVtable as launcher_waker_vtable { clone, wake, wake_by_ref, drop });
    layout!(out, Waker as launcher_waker { data, vtable });
    layout!(out, Chunk as launcher_chunk { size, flags, bytes, trailers, trailers_len, owner, release });
    layout!(out, Body as launcher_body { data, poll, drop, len });
    layout!(out, Peer as launcher_peer { family, port, scope, address });
    layout!(out, Request as launcher_request { size, version, method, target, headers, headers_len, body, peer });
    layout!(out, Response as launcher_response { size, flags, status, reserved, headers, headers_len, bytes, body, owner, release });
    layout!(out, Call as launcher_call { data, poll, drop });
    layout!(out, Letter as launcher_letter {
        size, kind, to, slot, worker, service, payload, descriptors, descriptors_len
    });
    layout!(out, Sending as launcher_sending { data, poll, drop });
    layout!(out, Arrival as launcher_arrival {
        size, from, worker, slot, reserved, service, payload, descriptors, descriptors_len, owner, release
    });
    layout!(out, Host as launcher_host {
        abi, size, config, service, worker, generation, slot, reserved, wakers, log, send, receive
    });
    layout!(out, Listener as launcher_listener { size, kind, descriptor, reserved, name, address });
    layout!(out, Sockets as launcher_sockets { size, stop_descriptor, stop_flag, drain_timeout_ms, listeners, listeners_len, host, ready, not_accepting, poll_stop, at_work, poll_alive, worker_descriptor, reserved, turn });
    layout!(out, Plugin as launcher_plugin_t { magic, abi, size, kind, flags, name, version, init, handle, drop, serve });
    constants!(
        out,
        ABI,
        KIND_HTTP,
        KIND_SOCKET,
        PLUGIN_PANIC_ABORTS,
        PLUGIN_TURNS_WORKER,
        STATIC,
        READY,
        PENDING,
        END,
        TRAILERS,
        ERROR,
        PANIC,
        SEND_TOO_LARGE,
        SEND_NOBODY,
        SEND_GONE,
        SEND_NOT_WANTED,
        SEND_NO_ROOM,
        SEND_BAD,
        SEND_NOT_READY,
        LETTER_MESSAGE,
        LETTER_CONNECTION,
        TO_WORKER,
        TO_SLOT,
        TO_ANY,
        TO_EVERY,
        FROM_WORKER,
        FROM_OPERATOR,
        LOG_ERROR,
        LOG_WARN,
        LOG_INFO,
        LOG_DEBUG,
        SOCKET_TCP,
        SOCKET_UDP,
        SOCKET_UNIX,
        SOCKET_UNIX_DATAGRAM,
        SOCKET_UNIX_PACKET,
        PEER_UNKNOWN,
        PEER_UNIX,
        PEER_IPV4,
        PEER_IPV6
    );
    // The functions' types: an assignment of the wrong one is an error.
    out.push_str(
        "static int32_t init(const launcher_host *h, void **s, launcher_chunk *e) { (void)h; (void)s; (void)e; return 0; }\n\
         static int32_t handle(void *s, launcher_request *q, launcher_waker w, launcher_response *r, launcher_call *c)\n\
         { (void)s; (void)q; (void)w; (void)r; (void)c; return LAUNCHER_ERROR; }\n\
         static void drop(void *s) { (void)s; }\n\
         static int32_t serve(void *s, const launcher_sockets *l, launcher_chunk *e) { (void)s; (void)l; (void)e; return 0; }\n\
         const launcher_plugin_t launcher_plugin = { .magic = LAUNCHER_MAGIC, .abi = LAUNCHER_ABI,\n\
           .size = sizeof(launcher_plugin_t), .kind = LAUNCHER_KIND_HTTP, .name = \"c\", .init = init, .handle = handle, .drop = drop, .serve = serve };\n",
    );
    out
}

fn compile(source: &str) -> (bool, String) {
    let dir = tempfile::tempdir().expect("it works");
    let file = dir.path().join("layout.c");
    std::fs::write(&file, source).expect("it works");
    let output = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-const-variable", "-c", "-o"])
        .arg(dir.path().join("layout.o"))
        .arg("-I")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg(&file)
        .output()
        .expect("it works");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_c_header_matches_the_rust_contract() {
    let (ok, errors) = compile(&assertions());
    assert!(ok, "{errors}");
}

#[test]
fn a_difference_is_found() {
    let wrong = assertions().replace("offsetof(launcher_request, body) ==", "offsetof(launcher_request, body) == 1 +");
    let (ok, errors) = compile(&wrong);
    assert!(!ok && errors.contains("launcher_request.body"), "{errors}");
}
