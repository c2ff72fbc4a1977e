//! The file as written: a tree of YAML values that remember their place.
//!
//! Flow: bytes → text → [`parse`] → [`Node`]. serde-saphyr parses, expands aliases and merge keys and bounds both;
//! what this module adds is a generic tree with positions, so that the reader can report every problem of a file
//! at once instead of the first. It does not know the grammar.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    DefaultMessageFormatter, DuplicateKeyPolicy, Error, Location, MessageFormatter as _, NonFiniteFloatPolicy, Options,
    Spanned, budget::BudgetBreach,
};

use super::diagnostics::{Diagnostic, floor, position, quoted};

/// Nesting beyond which a file is refused. `config:` is free YAML; nobody nests it this deep by hand.
pub(super) const DEPTH: usize = 64;

/// Events that aliases may repeat in total, which bounds an alias bomb's time and memory.
const REPEATED: usize = 100_000;

/// Size of a file in bytes beyond which it is refused.
pub(super) const MAX_BYTES: u64 = 8 << 20;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Bytes of the text; for an alias those of the value that it stands for. The key's where nothing is written.
    pub span: Range<usize>,
    /// The value.
    pub value: Value,
}

/// A YAML value of the core schema with strict booleans.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// `null`, `~`, or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Integer(i128),
    /// Any other number; may be infinite.
    Float(f64),
    /// A text.
    Text {
        /// The text, unquoted.
        text: String,
        /// Whether a variable was put into it: then `workers: ${N}` may be a number after all.
        expanded: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order written; keys are unique.
    Mapping(Vec<Entry>),
    /// A value about which a diagnostic was already made.
    Broken,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Range<usize>,
    /// The value.
    pub node: Node,
}

/// Turns bytes into text without a byte order mark. On invalid UTF-8 the text has replacement characters and the
/// diagnostic points at the first of them.
pub(super) fn decode(bytes: &[u8]) -> Result<String, (String, Diagnostic)> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let at = error.valid_up_to();
            let text = String::from_utf8_lossy(bytes).into_owned();
            let byte = bytes.get(at).copied().unwrap_or_default();
            let problem = Diagnostic::error(
                at..at + '\u{FFFD}'.len_utf8(),
                format!("the file is not UTF-8: byte 0x{byte:02x} does not belong here"),
            )
            .help("save the file as UTF-8");
            Err((text, problem))
        }
    }
}

/// Parses one YAML document. `None`: no document, or nothing but `null`. Duplicate keys are reported to `found`,
/// and the first is kept; anything else that is not YAML is the error.
pub(super) fn parse(text: &str, found: &mut Vec<Diagnostic>) -> Result<Option<Node>, Diagnostic> {
    let parsed: Result<Option<Spanned<Raw>>, Error> = serde_saphyr::from_str_with_options(text, options());
    match parsed {
        Ok(None) => Ok(None),
        Ok(Some(root)) => Ok(Some(Builder { text, found }.node(root, &(0..0)))),
        Err(error) => Err(explain(text, &error)),
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEPTH, flow_nesting_limit: 4096 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPEATED },
        // Duplicates are found by this module, all of them and with the place of the first.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        reject_unsupported_tags: true,
        // `env: { LIMIT: .inf }` is text; `config:` refuses it by itself.
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

/// The tree as serde-saphyr delivers it.
enum Raw {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Mapping(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(i128::try_from(value).map_or(Raw::Float(value as f64), Raw::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Mapping(entries))
    }
}

/// Turns locations into byte ranges and takes duplicates out.
struct Builder<'a> {
    text: &'a str,
    found: &'a mut Vec<Diagnostic>,
}

impl Builder<'_> {
    fn node(&mut self, raw: Spanned<Raw>, key: &Range<usize>) -> Node {
        let mut span = range(self.text, &raw.defined);
        let value = match raw.value {
            Raw::Null => {
                if self.text[span.clone()].trim().is_empty() {
                    span = key.clone();
                }
                Value::Null
            }
            Raw::Bool(value) => Value::Bool(value),
            Raw::Integer(value) => Value::Integer(value),
            Raw::Float(value) => Value::Float(value),
            Raw::Text(text) => Value::Text { text, expanded: false },
            Raw::List(items) => Value::List(items.into_iter().map(|item| self.node(item, &span)).collect()),
            Raw::Mapping(entries) => Value::Mapping(self.entries(entries)),
        };
        Node { span, value }
    }

    fn entries(&mut self, raw: Vec<(Spanned<String>, Spanned<Raw>)>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::with_capacity(raw.len());
        let mut first: HashMap<String, usize> = HashMap::with_capacity(raw.len());
        for (key, value) in raw {
            let key_span = range(self.text, &key.defined);
            if let Some(index) = first.get(&key.value) {
                let (line, column) = position(self.text, entries[*index].key_span.start);
                self.found.push(
                    Diagnostic::error(key_span, format!("duplicate key {}", quoted(&key.value)))
                        .help(format!("it is first given at line {line}, column {column}: remove one of them")),
                );
                continue;
            }
            first.insert(key.value.clone(), entries.len());
            let node = self.node(value, &key_span);
            entries.push(Entry { key: key.value, key_span, node });
        }
        entries
    }
}

/// The bytes of a location, always within `text` and at the borders of characters.
fn range(text: &str, location: &Location) -> Range<usize> {
    let span = location.span();
    let start = match span.byte_offset().map(usize::try_from) {
        Some(Ok(start)) => floor(text, start),
        _ => offset(text, location.line(), location.column()),
    };
    let length = span.byte_len().and_then(|length| usize::try_from(length).ok());
    let end = floor(text, start.saturating_add(length.unwrap_or(0))).max(start);
    // A scalar's end may include the line's end and the indentation after it.
    start..start + text[start..end].trim_end().len()
}

/// The byte of a line and column, both from 1; the end of the text where they lie outside.
fn offset(text: &str, line: u64, column: u64) -> usize {
    let skip = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    let start = match skip {
        0 => 0,
        skip => text.match_indices('\n').nth(skip - 1).map_or(text.len(), |(newline, _)| newline + 1),
    };
    let column = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
    text[start..].char_indices().nth(column).map_or(text.len(), |(byte, _)| start + byte)
}

/// A parser's error in the words of this program.
fn explain(text: &str, error: &Error) -> Diagnostic {
    let error = error.without_snippet();
    let place = match error.location() {
        Some(location) => {
            let range = range(text, &location);
            // A position behind the last character would be shown on a line that does not exist.
            if range.start == text.len() && text.ends_with('\n') {
                text.trim_end().len()..text.trim_end().len()
            } else {
                range
            }
        }
        None => 0..0,
    };
    // The place is the alias; what is wrong is said by the error within.
    let mut cause = error;
    while let Error::AliasError { error, .. } = cause {
        cause = error;
    }
    let (message, help) = match cause {
        Error::MultipleDocuments { .. } => (
            "more than one YAML document: a configuration is one document".to_owned(),
            Some("remove the line `---` and what follows it"),
        ),
        Error::UnknownAnchor { .. } => ("an alias to an anchor that does not exist".to_owned(), None),
        Error::NullIntoString { .. } => ("a key must be a text".to_owned(), None),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            (format!("nested deeper than {DEPTH} levels"), None)
        }
        Error::Budget { .. } => ("the file holds more than a configuration can be".to_owned(), None),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => {
            ("aliases repeat too much: the file would grow out of bounds".to_owned(), None)
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            ("an alias within the value that it stands for".to_owned(), None)
        }
        other => {
            let said = DefaultMessageFormatter.format_message(other);
            (format!("not valid YAML: {}", lower(&said)), None)
        }
    };
    let place = match cause {
        // The parser points behind the line that begins the second document.
        Error::MultipleDocuments { .. } => {
            text[..place.start].rfind("\n---").map_or(place, |newline| newline + 1..newline + 4)
        }
        _ => place,
    };
    let mut diagnostic = Diagnostic::error(place.clone(), message);
    diagnostic.help = help.or_else(|| advice(text, place.start)).map(str::to_owned);
    diagnostic
}

/// Hints for what people write that YAML takes differently.
fn advice(text: &str, at: usize) -> Option<&'static str> {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next().unwrap_or("");
    let indent = &line[..line.len() - line.trim_start().len()];
    let value = line.split_once(": ").map_or(line, |(_, value)| value);
    let value = value.trim_start().trim_start_matches("- ");
    if value.starts_with("*:") {
        Some("`*` begins an alias in YAML; quote the address: \"*:8080\"")
    } else if value.starts_with("[::") {
        Some("`[` begins a list in YAML; quote the address: \"[::1]:8080\"")
    } else if indent.contains('\t') {
        Some("YAML is indented with spaces, never with tabs")
    } else {
        None
    }
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // "YAML …" stays as it is.
        (Some(first), second) if !second.is_some_and(char::is_uppercase) => first.to_lowercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}
