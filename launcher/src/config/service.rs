//! One entry under `services:`, from the tree to its meaning.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use super::access_log::access_log;
use super::diagnostics::{Complaint, Diagnostic, quoted};
use super::grammar::{DIRECTORY, Form, LISTEN, SERVICE};
use super::identity::{Account, Culprit, identity};
use super::kind::{HTTP_KEYS, HttpKeys};
use super::listen::{self, Resolve};
use super::reader::{Field, Reader, Section, join};
use super::taken::{Site, Taken};
use super::written::{Node, Value};
use super::{
    Address, At, Balance, Forwarded, Limits, Listen, Reload, Restart, Scheduling, Service, Wasm, places, units,
};

/// Longest name of a service or listener: it becomes part of file names and of every line of the log.
const LONGEST_NAME: usize = 64;

/// Reads one service. `None`: something without a default is missing, and was reported.
pub(super) fn service(
    reader: &mut Reader<'_>,
    name: &str,
    node: &Node,
    key_span: Range<usize>,
    base: &Path,
    resolve: &Resolve<'_>,
    taken: &mut Taken,
) -> Option<Service> {
    let path = join("services", name);
    if let Err(complaint) = well_named(name) {
        reader.complain(key_span.clone(), &path, complaint);
    }
    let before = reader.found.len();
    let service = reader.section(Some(node), key_span, &path, SERVICE);
    if reader.found.len() > before && !matches!(node.value, Value::Mapping(_)) {
        return None;
    }
    let build = reader.text(&service.field("build")).map(str::to_owned);
    let plugin = plugin(reader, &service, base, build.is_some());
    let listen = listen(reader, &service, base, resolve, taken);
    let workers = workers(reader, &service);
    let env = environment(reader, &service.field("env"));
    let config = settings(reader, &service.field("config"));
    let balance = balance(reader, &service);
    let scheduling = scheduling(reader, &service, balance, &listen);
    let forwarded = match reader.choice(&service.field("forwarded")) {
        "set" => Forwarded::Set,
        "append" => Forwarded::Append,
        _ => Forwarded::Off,
    };
    let access_log = access_log(reader, &service, base);
    let reload = reload(reader, &service);
    let restart = restart(reader, &service);
    let stop = reader.subsection(&service, "stop");
    let drain_timeout = reader.duration(&stop.field("drain_timeout"));
    let limits = limits(reader, &service);
    let native = plugin.as_ref().is_some_and(|(_, path)| path.extension().is_some_and(|extension| extension == "so"));
    let wasm = wasm(reader, &service, base, native);
    let user = user(reader, &service);
    let http_keys = http_keys(&service);
    let (plugin, plugin_path) = plugin?;
    Some(Service {
        plugin,
        plugin_path,
        build,
        listen,
        workers,
        env,
        config,
        balance,
        scheduling,
        forwarded,
        access_log,
        reload,
        restart,
        drain_timeout,
        limits,
        wasm,
        user,
        http_keys,
    })
}

/// Those of [`HTTP_KEYS`] that the file gives.
fn http_keys(service: &Section<'_>) -> HttpKeys {
    let written = |key: &str| match key.split_once('.') {
        None => service.field(key).key_span,
        Some((section, name)) => match &service.field(section).node?.value {
            Value::Mapping(entries) => {
                entries.iter().find(|entry| entry.key == name).map(|entry| entry.key_span.clone())
            }
            _ => None,
        },
    };
    HttpKeys(HTTP_KEYS.iter().filter_map(|key| Some(((*key).to_owned(), At(written(key)?)))).collect())
}

/// Names of services and listeners: they appear in file names, URLs and environment variables.
fn well_named(name: &str) -> Result<(), Complaint> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(allowed) {
        return Err(Complaint::new(format!("{} is not a name", quoted(name)))
            .help(format!("names have 1 to {LONGEST_NAME} letters, digits, `_` and `-`")));
    }
    Ok(())
}

/// Reports that a key without a default is not there.
fn required<'n>(reader: &mut Reader<'_>, section: &Section<'_>, field: &Field<'n>) -> Option<&'n Node> {
    if field.node.is_none() {
        let help = format!("{}: {}", field.key.name, field.key.about);
        reader.error(section.span.clone(), format!("{}: is missing", field.path), Some(help));
    }
    field.node
}

fn plugin(
    reader: &mut Reader<'_>,
    service: &Section<'_>,
    base: &Path,
    can_be_built: bool,
) -> Option<(String, std::path::PathBuf)> {
    let field = service.field("plugin");
    let node = required(reader, service, &field)?;
    let text = reader.text(&field)?;
    let path = reader.accept(node, &field.path, places::plugin(text, base, can_be_built))?;
    Some((text.to_owned(), path))
}

fn listen(
    reader: &mut Reader<'_>,
    service: &Section<'_>,
    base: &Path,
    resolve: &Resolve<'_>,
    taken: &mut Taken,
) -> Vec<Listen> {
    let field = service.field("listen");
    let Some(node) = required(reader, service, &field) else {
        return Vec::new();
    };
    let items = match &node.value {
        Value::List(items) if items.is_empty() => {
            reader.error(node.span.clone(), format!("{}: is empty", field.path), None);
            return Vec::new();
        }
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut found: Vec<Listen> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let path = match &node.value {
            Value::List(_) => format!("{}[{index}]", field.path),
            _ => field.path.clone(),
        };
        let Some((listen, span)) = listener(reader, item, &path, base, resolve) else {
            continue;
        };
        let site = Site { owner: path.clone(), span: span.clone() };
        if let Some(other) = taken.take(&listen.address, &listen.options, site) {
            clash(reader, span, &path, &other);
        } else if found.iter().any(|other| other.name == listen.name) {
            reader.error(span, format!("{path}: the name {} is given twice", quoted(&listen.name)), None);
        } else {
            found.push(listen);
        }
    }
    found
}

/// Reports an address that somebody else has.
pub(super) fn clash(reader: &mut Reader<'_>, span: Range<usize>, path: &str, other: &Site) {
    let (line, column) = reader.position(other.span.start);
    reader.error(
        span,
        format!("{path}: `{}` listens there already", other.owner),
        Some(format!("it is at line {line}, column {column}; `[::]` and `*` include every address of their port")),
    );
}

fn listener(
    reader: &mut Reader<'_>,
    item: &Node,
    path: &str,
    base: &Path,
    resolve: &Resolve<'_>,
) -> Option<(Listen, Range<usize>)> {
    let mut proxy_protocol = false;
    let (name, node, path) = match &item.value {
        Value::Mapping(_) => {
            let section = reader.section(Some(item), item.span.clone(), path, LISTEN);
            let name_field = section.field("name");
            let name = reader.text(&name_field);
            if let (Some(name), Some(node)) = (name, name_field.node) {
                reader.accept(node, &name_field.path, well_named(name))?;
            }
            proxy_protocol = reader.flag(&section.field("proxy_protocol"));
            let field = section.field("address");
            (name, required(reader, &section, &field)?, field.path)
        }
        _ => (None, item, path.to_owned()),
    };
    let text = match &node.value {
        Value::Text { text, .. } => text,
        Value::Integer(port) => {
            let complaint = Complaint::new(format!("expected an address, found the number `{port}`"))
                .help(format!("did you mean `127.0.0.1:{port}`?"));
            reader.complain(node.span.clone(), &path, complaint);
            return None;
        }
        _ => {
            reader.wrong(node, &path, "an address");
            return None;
        }
    };
    let (address, options) = reader.accept(node, &path, listen::address(text, base, resolve))?;
    let at = At(node.span.clone());
    let listen = Listen { name: name.unwrap_or(text).to_owned(), address, options, proxy_protocol, at };
    Some((listen, node.span.clone()))
}

fn workers(reader: &mut Reader<'_>, service: &Section<'_>) -> u32 {
    match reader.count_or_auto(&service.field("workers")) {
        Some(workers) => u32::try_from(workers).unwrap_or(u32::MAX),
        // Honours the affinity mask and the cgroup's quota.
        None => std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
    }
}

fn environment(reader: &mut Reader<'_>, field: &Field<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let entries = match field.node.map(|node| (&node.value, node)) {
        None | Some((Value::Null, _)) => return found,
        Some((Value::Mapping(entries), _)) => entries,
        Some((_, node)) => {
            reader.wrong(node, &field.path, "a mapping");
            return found;
        }
    };
    for entry in entries {
        let path = join(&field.path, &entry.key);
        if entry.key.is_empty() || entry.key.contains(['=', '\0']) {
            let complaint = Complaint::new(format!("{} is not a variable's name", quoted(&entry.key)));
            reader.complain(entry.key_span.clone(), &field.path, complaint);
            continue;
        }
        match reader.scalar(&entry.node) {
            Some(value) if value.contains('\0') => {
                reader.error(entry.node.span.clone(), format!("{path}: contains a NUL character"), None);
            }
            Some(value) => {
                found.insert(entry.key.clone(), value.into_owned());
            }
            None if matches!(entry.node.value, Value::Null) => reader.error(
                entry.node.span.clone(),
                format!("{path}: expected a text, found nothing"),
                Some("for an empty text write \"\"".to_owned()),
            ),
            None => reader.wrong(&entry.node, &path, "a single value"),
        }
    }
    found
}

/// `config:` as JSON; an empty object unless given.
fn settings(reader: &mut Reader<'_>, field: &Field<'_>) -> serde_json::Value {
    match field.node {
        Some(node) if !matches!(node.value, Value::Null) => json(reader, node, &field.path),
        _ => serde_json::Value::Object(serde_json::Map::new()),
    }
}

fn json(reader: &mut Reader<'_>, node: &Node, path: &str) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Null | Value::Broken => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Text { text, .. } => Json::String(text.clone()),
        Value::Integer(_) | Value::Float(_) => {
            let number = match &node.value {
                Value::Integer(number) => serde_json::Number::from_i128(*number),
                Value::Float(number) => serde_json::Number::from_f64(*number),
                _ => None,
            };
            match number {
                Some(number) => Json::Number(number),
                None => {
                    let complaint =
                        Complaint::new(format!("the number {} is out of range", quoted(reader.written(node))))
                            .help("quote it to hand it over as text");
                    reader.complain(node.span.clone(), path, complaint);
                    Json::Null
                }
            }
        }
        Value::List(items) => Json::Array(
            items.iter().enumerate().map(|(index, item)| json(reader, item, &format!("{path}[{index}]"))).collect(),
        ),
        Value::Mapping(entries) => Json::Object(
            entries
                .iter()
                .map(|entry| {
                    let value = json(reader, &entry.node, &join(path, &entry.key));
                    (entry.key.clone(), value)
                })
                .collect(),
        ),
    }
}

fn balance(reader: &mut Reader<'_>, service: &Section<'_>) -> Balance {
    match reader.choice(&service.field("balance")) {
        "connections" => Balance::Connections,
        _ => Balance::Requests,
    }
}

/// Who accepts, if that and the rest can be had together.
fn scheduling(reader: &mut Reader<'_>, service: &Section<'_>, balance: Balance, listen: &[Listen]) -> Scheduling {
    let field = service.field("scheduling");
    let scheduling = match reader.choice(&field) {
        "reuseport" => Scheduling::Reuseport,
        "round_robin" => Scheduling::RoundRobin,
        _ => Scheduling::Shared,
    };
    let word = scheduling.word();
    let Some(node) = field.node.filter(|_| scheduling != Scheduling::Shared) else { return scheduling };
    if balance == Balance::Connections {
        let complaint = Complaint::new(format!("`{word}` leaves no choice to `balance: connections`"))
            .help("only workers that accept from one queue can leave connections to each other: remove one of the two");
        reader.complain(node.span.clone(), &field.path, complaint);
    }
    if let (Scheduling::Reuseport, Some(listen)) =
        (scheduling, listen.iter().find(|listen| !matches!(listen.address, Address::Tcp(_))))
    {
        let complaint = Complaint::new(format!("`{word}` is of TCP alone, and {} is none", quoted(&listen.name)))
            .help("a Unix socket has one queue, which all workers share");
        reader.complain(node.span.clone(), &field.path, complaint);
    }
    scheduling
}

fn reload(reader: &mut Reader<'_>, service: &Section<'_>) -> Reload {
    let section = reader.subsection(service, "reload");
    Reload {
        watch: reader.flag(&section.field("watch")),
        surge: reader.small(&section.field("surge")),
        ready_timeout: reader.duration(&section.field("ready_timeout")),
        probation: reader.duration(&section.field("probation")),
        settle: reader.duration(&section.field("settle")),
    }
}

fn restart(reader: &mut Reader<'_>, service: &Section<'_>) -> Restart {
    let section = reader.subsection(service, "restart");
    let backoff = reader.parsed(&section.field("backoff"), "two durations such as `100ms..30s`", |text| {
        let Some((min, max)) = text.split_once("..") else {
            return Err(Complaint::new(format!("{} is not a range of durations", quoted(text)))
                .help("a backoff looks like `100ms..30s`"));
        };
        let (min, max) = (units::duration(min)?, units::duration(max)?);
        if min.is_zero() {
            return Err(Complaint::new("the shortest delay must be longer than zero"));
        }
        if min > max {
            return Err(Complaint::new(format!("the shortest delay is longer than the longest: {}", quoted(text)))
                .help("write the shorter one first"));
        }
        Ok((min, max))
    });
    let budget = reader.parsed(&section.field("budget"), "a number in a time such as `5/60s`", |text| {
        let bad = || {
            Complaint::new(format!("{} is not a number in a time", quoted(text))).help("a budget looks like `5/60s`")
        };
        let (count, window) = text.split_once('/').ok_or_else(bad)?;
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        let count: u32 = count.parse().map_err(|_| bad())?;
        let window = units::duration(window)?;
        if count == 0 || window.is_zero() {
            return Err(Complaint::new(format!("{} would never let a worker start again", quoted(text)))
                .help("allow at least one crash in a time longer than zero"));
        }
        Ok((count, window))
    });
    let (backoff_min, backoff_max) = backoff.unwrap_or_default();
    let (budget, budget_window) = budget.unwrap_or_default();
    Restart {
        backoff_min,
        backoff_max,
        budget,
        budget_window,
        reset_after: reader.duration(&section.field("reset_after")),
    }
}

fn limits(reader: &mut Reader<'_>, service: &Section<'_>) -> Limits {
    let section = reader.subsection(service, "limits");
    Limits {
        memory: reader.size(&section.field("memory")),
        request_timeout: reader.duration(&section.field("request_timeout")),
        idle_timeout: reader.duration(&section.field("idle_timeout")),
        connections: reader.small(&section.field("connections")),
        max_requests: reader.count(&section.field("max_requests")),
        max_lifetime: reader.duration(&section.field("max_lifetime")),
        stuck_timeout: stuck_timeout(reader, &section.field("stuck_timeout")),
    }
}

/// Shorter than a few of a worker's beats it would end workers that are well.
fn stuck_timeout(reader: &mut Reader<'_>, field: &Field<'_>) -> Duration {
    const LEAST: Duration = Duration::from_secs(3);
    let timeout = reader.duration(field);
    if let (true, Some(node)) = (!timeout.is_zero() && timeout < LEAST, field.node) {
        let complaint = Complaint::new("a worker tells once a second that it is well, so 3s is the least")
            .help("write 3s or more, or 0s to leave stuck workers as they are");
        reader.complain(node.span.clone(), &field.path, complaint);
    }
    timeout
}

fn wasm(reader: &mut Reader<'_>, service: &Section<'_>, base: &Path, native: bool) -> Wasm {
    if let (true, Some(span)) = (native, service.field("wasm").key_span) {
        let warning =
            Diagnostic::warning(span, format!("{}: has no effect on a native plugin", service.field("wasm").path))
                .help("a .so runs outside of the sandbox: it can reach every file and peer that its user can");
        reader.found.push(warning);
    }
    let section = reader.subsection(service, "wasm");
    let reuse = reader.count_or_auto(&section.field("reuse"));
    Wasm {
        memory: reader.size(&section.field("memory")).unwrap_or_default(),
        cpu_time: reader.duration(&section.field("cpu_time")),
        reuse: reuse.map(|reuse| u32::try_from(reuse).unwrap_or(u32::MAX)),
        dirs: directories(reader, &section, base),
        network: peers(reader, &section),
    }
}

/// The items of a list that may be left out or empty.
fn items<'n>(reader: &mut Reader<'_>, field: &Field<'n>) -> &'n [Node] {
    match field.node.map(|node| (&node.value, node)) {
        None | Some((Value::Null, _)) => &[],
        Some((Value::List(items), _)) => items,
        Some((_, node)) => {
            reader.wrong(node, &field.path, "a list");
            &[]
        }
    }
}

fn directories(reader: &mut Reader<'_>, wasm: &Section<'_>, base: &Path) -> Vec<(std::path::PathBuf, String, bool)> {
    let field = wasm.field("dirs");
    let mut found: Vec<(std::path::PathBuf, String, bool)> = Vec::new();
    for (index, item) in items(reader, &field).iter().enumerate() {
        let path = format!("{}[{index}]", field.path);
        if !matches!(item.value, Value::Mapping(_)) {
            reader.wrong(item, &path, "a mapping with `host` and `guest`");
            continue;
        }
        let section = reader.section(Some(item), item.span.clone(), &path, DIRECTORY);
        let (host, guest) = (section.field("host"), section.field("guest"));
        let writable = reader.choice(&section.field("mode")) == "rw";
        let host_node = required(reader, &section, &host);
        let guest_node = required(reader, &section, &guest);
        let host_path = match (host_node, reader.text(&host)) {
            (Some(node), Some(text)) => reader.accept(node, &host.path, places::directory(text, base)),
            _ => None,
        };
        if let (Some(host), Some(guest_node), Some(guest_text)) = (host_path, guest_node, reader.text(&guest)) {
            if found.iter().any(|(_, other, _)| other == guest_text) {
                let message = format!("{}: {} is given twice", guest.path, quoted(guest_text));
                reader.error(guest_node.span.clone(), message, None);
            } else {
                found.push((host, guest_text.to_owned(), writable));
            }
        }
    }
    found
}

fn peers(reader: &mut Reader<'_>, wasm: &Section<'_>) -> Vec<(String, u16)> {
    let field = wasm.field("network");
    let mut found = Vec::new();
    for (index, item) in items(reader, &field).iter().enumerate() {
        let path = format!("{}[{index}]", field.path);
        match &item.value {
            Value::Text { text, .. } => found.extend(reader.accept(item, &path, listen::peer(text))),
            _ => reader.wrong(item, &path, "host:port"),
        }
    }
    found
}

fn user(reader: &mut Reader<'_>, service: &Section<'_>) -> Option<super::Identity> {
    let (user_field, group_field) = (service.field("user"), service.field("group"));
    let before = reader.found.len();
    let user = account(reader, &user_field);
    let group = account(reader, &group_field);
    if reader.found.len() > before {
        return None;
    }
    match identity(user, group) {
        Ok(identity) => identity,
        Err((culprit, complaint)) => {
            let field = match culprit {
                Culprit::User => user_field,
                Culprit::Group => group_field,
            };
            if let Some(node) = field.node {
                reader.complain(node.span.clone(), &field.path, complaint);
            }
            None
        }
    }
}

fn account<'n>(reader: &mut Reader<'_>, field: &Field<'n>) -> Option<Account<'n>> {
    debug_assert!(matches!(field.key.form, Form::Account));
    let node = field.node?;
    let number = match &node.value {
        Value::Integer(number) => *number,
        Value::Text { text, expanded } => match text.parse::<i128>() {
            Ok(number) if *expanded => number,
            _ => return reader.text(field).map(Account::Name),
        },
        _ => {
            reader.wrong(node, &field.path, "a name or a number");
            return None;
        }
    };
    match u32::try_from(number) {
        // The largest number means "unchanged" to setuid(2).
        Ok(number) if number != u32::MAX => Some(Account::Number(number)),
        _ => {
            reader.error(node.span.clone(), format!("{}: no account has the number {number}", field.path), None);
            None
        }
    }
}
