//! Every key of the file: its name, its form, its default, and what it means.
//!
//! This table is the one truth. The reader takes forms and defaults from it and refuses what it does not name, and
//! [`super::schema()`] renders it; neither can drift from the other.

/// A key of a mapping.
#[derive(Debug)]
pub(super) struct Key {
    /// As written.
    pub name: &'static str,
    /// What its value looks like.
    pub form: Form,
    /// The value's text when the key is left out; empty: there is none.
    pub default: &'static str,
    /// What it means, in a sentence.
    pub about: &'static str,
    /// A value that is valid and not the default, as YAML.
    pub example: &'static str,
}

/// What a value looks like.
#[derive(Debug)]
pub(super) enum Form {
    /// A text.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Count {
        /// Smallest.
        least: u64,
        /// Largest.
        most: u64,
        /// Whether `auto` may stand for it.
        auto: bool,
    },
    /// `1m30s`
    Duration {
        /// Whether it may be zero.
        zero: bool,
    },
    /// `64MiB`
    Size {
        /// Smallest, in bytes.
        least: u64,
    },
    /// Two durations: `100ms..30s`.
    Backoff,
    /// A number in a time: `5/60s`.
    Budget,
    /// One of some words.
    Choice(&'static [&'static str]),
    /// A mapping with these keys.
    Section(&'static [Key]),
    /// A mapping from names to mappings with these keys.
    Services(&'static [Key]),
    /// One of some words for the key `format` of a mapping with these keys, or the mapping.
    Access(&'static [Key]),
    /// An address, a mapping with these keys, or a list of both.
    Listen(&'static [Key]),
    /// A mapping from names to scalars.
    Environment,
    /// Any YAML.
    Any,
    /// A list of mappings with these keys.
    Directories(&'static [Key]),
    /// A list of `host:port`.
    Peers,
    /// A name or a number.
    Account,
    /// Reserved: a clear error until it is built.
    Unsupported,
}

const fn key(name: &'static str, form: Form, default: &'static str, example: &'static str, about: &'static str) -> Key {
    Key { name, form, default, about, example }
}

/// The whole file.
pub(super) static ROOT: &[Key] = &[
    key(
        "services",
        Form::Services(SERVICE),
        "",
        "",
        "what to run: a mapping from the name of a service to its settings",
    ),
    key("master", Form::Section(MASTER), "", "", "what concerns the master process alone"),
];

/// One entry under `services:`.
pub(super) static SERVICE: &[Key] = &[
    key(
        "plugin",
        Form::Text,
        "",
        "other.wasm",
        "the plugin: a .wasm, .wat or .so file; relative paths are relative to this file",
    ),
    key(
        "build",
        Form::Text,
        "",
        "make",
        "shell command that makes the plugin, run in the directory of this file when the plugin is missing",
    ),
    key(
        "listen",
        Form::Listen(LISTEN),
        "",
        "127.0.0.1:8081",
        "where to listen: HOST:PORT, tcp://HOST:PORT, unix:/path?mode=0660, unix:@name (abstract), udp://HOST:PORT \
         (plugins that own their sockets only) or fd://NAME (a socket of systemd's); `*` or no host is all interfaces, \
         IPv4 and IPv6; options: ?backlog=1024, ?ipv6_only=true, ?nodelay=false, joined by `&`",
    ),
    key(
        "workers",
        Form::Count { least: 1, most: super::MAX_WORKERS as u64, auto: true },
        "auto",
        "3",
        "number of worker processes; auto: the CPUs that affinity and cgroup quota leave",
    ),
    key("env", Form::Environment, "", "{ A: 1 }", "the environment of the plugin: this and nothing else"),
    key("config", Form::Any, "", "{ a: [1] }", "settings of the plugin's own, handed to it"),
    key(
        "forwarded",
        Form::Choice(&["off", "set", "append"]),
        "off",
        "append",
        "tell the plugin the client's address in Forwarded and X-Forwarded-For: set them and drop what the client sent, or append to what a trusted proxy sent",
    ),
    key(
        "access_log",
        Form::Access(ACCESS_LOG),
        "",
        "json",
        "tell every request: json or combined, into the log, or a mapping; off unless given",
    ),
    key(
        "balance",
        Form::Choice(&["requests", "connections"]),
        "requests",
        "connections",
        "how connections spread over the workers: in turn, or to those with the fewest open",
    ),
    key(
        "scheduling",
        Form::Choice(&["shared", "reuseport", "round_robin"]),
        "shared",
        "round_robin",
        "who accepts: all workers from one queue, each from a queue of its own, or the master, which passes connections on; \
         the last two have drawbacks, see docs/how-to/connections.md",
    ),
    key("reload", Form::Section(RELOAD), "", "", "how a change is rolled out"),
    key("restart", Form::Section(RESTART), "", "", "how crashes are answered"),
    key("stop", Form::Section(STOP), "", "", "how workers leave"),
    key("limits", Form::Section(LIMITS), "", "", "limits of a worker"),
    key("wasm", Form::Section(WASM), "", "", "the sandbox of a WASM plugin"),
    key("user", Form::Account, "", "0", "user that the workers become, by name or number; needs root"),
    key("group", Form::Account, "", "0", "group that the workers become; the user's own unless given"),
    key("rlimits", Form::Unsupported, "", "", ""),
    key("sandbox", Form::Unsupported, "", "", ""),
];

/// A mapping under `listen:`.
pub(super) static LISTEN: &[Key] = &[
    key("name", Form::Text, "", "", "the name under which the plugin finds it; the address unless given"),
    key("address", Form::Text, "", "", "the address"),
    key(
        "proxy_protocol",
        Form::Flag,
        "false",
        "true",
        "whoever connects is a proxy that says first whose the connection is, by the PROXY protocol, version 1 or 2; a \
         connection without that is closed",
    ),
];

/// The mapping under `access_log:`.
pub(super) static ACCESS_LOG: &[Key] = &[
    key(
        "format",
        Form::Choice(&["json", "combined"]),
        "json",
        "combined",
        "json: one object a line, combined: as Apache and nginx write it",
    ),
    key(
        "file",
        Form::Text,
        "",
        "access.log",
        "a file instead of the worker's standard output; relative paths are relative to this file",
    ),
];

static RELOAD: &[Key] = &[
    key("watch", Form::Flag, "true", "false", "reload when the plugin's file changes"),
    key(
        "surge",
        Form::Count { least: 1, most: super::MAX_WORKERS as u64, auto: false },
        "1",
        "2",
        "workers beyond `workers` while generations change",
    ),
    key("ready_timeout", Form::Duration { zero: false }, "60s", "5s", "from the start of a worker to ready"),
    key(
        "probation",
        Form::Duration { zero: true },
        "10s",
        "0s",
        "after a promotion: how long repeated crashes roll back to the generation before",
    ),
    key(
        "settle",
        Form::Duration { zero: true },
        "100ms",
        "200ms",
        "stillness that a file in change must show; an atomic replacement needs none",
    ),
];

static RESTART: &[Key] = &[
    key(
        "backoff",
        Form::Backoff,
        "100ms..30s",
        "1s..1m",
        "shortest and longest delay before a restart; the very first retry is immediate",
    ),
    key(
        "budget",
        Form::Budget,
        "5/60s",
        "3/10s",
        "crashes that are allowed within a sliding window, as NUMBER/DURATION",
    ),
    key(
        "reset_after",
        Form::Duration { zero: true },
        "60s",
        "2m",
        "a worker that was ready this long clears the count",
    ),
];

static STOP: &[Key] = &[key(
    "drain_timeout",
    Form::Duration { zero: true },
    "30s",
    "1s",
    "how long requests in flight may take to finish before the worker is killed",
)];

static LIMITS: &[Key] = &[
    key(
        "memory",
        Form::Size { least: 1 << 20 },
        "",
        "256MiB",
        "memory of one worker process; near it the worker is replaced gracefully; unlimited unless given",
    ),
    key(
        "request_timeout",
        Form::Duration { zero: false },
        "30s",
        "5s",
        "from the end of a request's head to the response's head; 504 after it",
    ),
    key(
        "idle_timeout",
        Form::Duration { zero: false },
        "65s",
        "60s",
        "a transfer or a kept-alive connection without progress ends after it",
    ),
    key(
        "connections",
        Form::Count { least: 1, most: 1_000_000, auto: false },
        "10000",
        "100",
        "open connections of one worker; beyond it they wait in the kernel's queue",
    ),
    key(
        "max_requests",
        Form::Count { least: 0, most: u64::MAX, auto: false },
        "0",
        "1000",
        "requests after which a worker is replaced gracefully; 0: never",
    ),
    key(
        "max_lifetime",
        Form::Duration { zero: true },
        "0s",
        "24h",
        "age at which a worker is replaced gracefully; 0s: never",
    ),
    key(
        "stuck_timeout",
        Form::Duration { zero: true },
        "30s",
        "10s",
        "how long the loop of a worker may stand still before the worker is ended, with a backtrace, and replaced; at \
         least 3s; 0s: for ever",
    ),
];

static WASM: &[Key] = &[
    key(
        "memory",
        Form::Size { least: 64 << 10 },
        "256MiB",
        "64MiB",
        "linear memory of one instance; beyond it the guest's allocation fails",
    ),
    key("cpu_time", Form::Duration { zero: false }, "10s", "1s", "computing without yielding before a call is ended"),
    key(
        "reuse",
        Form::Count { least: 1, most: 1_000_000, auto: true },
        "auto",
        "16",
        "requests that an instance serves one after the other; auto: 1 for WASI 0.2 unless the component declares \
         itself reusable, 128 for 0.3",
    ),
    key("dirs", Form::Directories(DIRECTORY), "", "[{ host: ., guest: /d }]", "directories that the guest sees"),
    key("network", Form::Peers, "", "['example.com:443']", "host:port pairs that the guest may connect to"),
];

/// An item of `wasm.dirs`.
pub(super) static DIRECTORY: &[Key] = &[
    key("host", Form::Text, "", "", "the directory; relative paths are relative to this file"),
    key("guest", Form::Text, "", "", "where the guest sees it"),
    key("mode", Form::Choice(&["ro", "rw"]), "ro", "rw", "ro: read only, rw: read and write"),
];

static MASTER: &[Key] = &[
    key(
        "state_dir",
        Form::Text,
        "",
        "./state",
        "where cache, lock and control socket live; `.launcher` beside this file unless given",
    ),
    key("admin", Form::Text, "", "127.0.0.1:9099", "HOST:PORT of /metrics, /livez, /readyz and a status page"),
    key(
        "spare_workers",
        Form::Count { least: 0, most: 16, auto: false },
        "2",
        "0",
        "processes that wait to become workers, so that a replacement is ready at once; never more than there are workers",
    ),
    key("log", Form::Section(LOG), "", "", "the master's own log"),
];

static LOG: &[Key] = &[
    key("format", Form::Choice(&["pretty", "json"]), "pretty", "json", "pretty: for people, json: one object a line"),
    key(
        "level",
        Form::Choice(&["error", "warn", "info", "debug"]),
        "info",
        "debug",
        "the least severe messages that are written",
    ),
    key(
        "file",
        Form::Text,
        "",
        "launcher.log",
        "a file that gets everything, too; relative paths are relative to this file",
    ),
    key(
        "max_size",
        Form::Size { least: 4 << 10 },
        "64MiB",
        "10MB",
        "size at which the file becomes FILE.1, and FILE.1 becomes FILE.2",
    ),
    key("keep", Form::Count { least: 1, most: 1000, auto: false }, "5", "9", "such files that are kept"),
];
