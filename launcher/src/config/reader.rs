//! Reads typed values out of the tree and collects everything that is wrong on the way.
//!
//! A reading method always returns a value: where the file's is missing or bad it is the default of the grammar, so
//! that reading goes on and the next problem is found as well. Whoever uses the values looks at [`Reader::found`]
//! first. The meaning of single keys lives in [`super::service`] and [`super::document`].

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use super::diagnostics::{Complaint, Diagnostic, meant, position, quoted};
use super::grammar::{Form, Key};
use super::units;
use super::written::{Entry, Node, Value};

/// Collects problems while values are read.
pub(super) struct Reader<'t> {
    text: &'t str,
    /// What was wrong so far.
    pub found: Vec<Diagnostic>,
}

/// A mapping whose keys were held against the grammar.
pub(super) struct Section<'n> {
    path: String,
    /// Where it stands; its key, unless it is an item of a list.
    pub span: Range<usize>,
    keys: &'static [Key],
    entries: Vec<(&'static Key, &'n Entry)>,
}

/// A key that the grammar knows and perhaps the file gives.
pub(super) struct Field<'n> {
    /// The dotted path, for messages.
    pub path: String,
    /// The key's row in the grammar.
    pub key: &'static Key,
    /// Its value, where one is written.
    pub node: Option<&'n Node>,
    /// Where the key is written.
    pub key_span: Option<Range<usize>>,
}

impl<'n> Section<'n> {
    /// The field of a key, whether written or not.
    ///
    /// # Panics
    /// If the grammar of this section does not have the key. Names are literals of the calling code, and the test
    /// that reads every key of the grammar would see it.
    pub(super) fn field(&self, name: &str) -> Field<'n> {
        let Some(key) = self.keys.iter().find(|key| key.name == name) else {
            panic!("the grammar of `{}` has no key `{name}`", self.path);
        };
        let entry = self.entries.iter().find(|(known, _)| known.name == name);
        Field {
            path: join(&self.path, name),
            key,
            node: entry.map(|(_, entry)| &entry.node),
            key_span: entry.map(|(_, entry)| entry.key_span.clone()),
        }
    }
}

/// A dotted path.
pub(super) fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

impl<'t> Reader<'t> {
    /// A reader of nodes that were parsed from `text`.
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new() }
    }

    /// Reports an error.
    pub(super) fn error(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        let mut diagnostic = Diagnostic::error(span, message);
        diagnostic.help = help;
        self.found.push(diagnostic);
    }

    /// Reports a complaint about the value at `path`.
    pub(super) fn complain(&mut self, span: Range<usize>, path: &str, complaint: Complaint) {
        self.error(span, format!("{path}: {}", complaint.message), complaint.help);
    }

    /// Passes a good value on and reports a complaint.
    pub(super) fn accept<T>(&mut self, node: &Node, path: &str, result: Result<T, Complaint>) -> Option<T> {
        result.map_err(|complaint| self.complain(node.span.clone(), path, complaint)).ok()
    }

    /// Reports that a value is of another form than it should be.
    pub(super) fn wrong(&mut self, node: &Node, path: &str, expected: &str) {
        if matches!(node.value, Value::Broken) {
            return;
        }
        let help = match &node.value {
            Value::Text { text, expanded: false }
                if expected.starts_with("a number") && text.parse::<u64>().is_ok() =>
            {
                Some("remove the quotes".to_owned())
            }
            Value::Text { text, .. } if expected == "true or false" => match text.to_lowercase().as_str() {
                "yes" | "on" | "y" | "true" => Some("did you mean `true`?".to_owned()),
                "no" | "off" | "n" | "false" => Some("did you mean `false`?".to_owned()),
                _ => None,
            },
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) if expected == "a text" => {
                Some(format!("quote it: \"{}\"", self.written(node)))
            }
            _ => None,
        };
        let found = match &node.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(_) => format!("the truth value {}", quoted(self.written(node))),
            Value::Integer(_) | Value::Float(_) => {
                format!("the number {}", quoted(self.written(node)))
            }
            Value::Text { text, .. } => format!("the text {}", quoted(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Broken => return,
        };
        self.error(node.span.clone(), format!("{path}: expected {expected}, found {found}"), help);
    }

    /// Line and column of a byte of the file, from 1.
    pub(super) fn position(&self, byte: usize) -> (usize, usize) {
        position(self.text, byte)
    }

    /// A scalar as it is written in the file.
    pub(super) fn written(&self, node: &Node) -> &'t str {
        self.text.get(node.span.clone()).unwrap_or_default()
    }

    /// A scalar's text; numbers and truth values as written. `None` for anything else.
    pub(super) fn scalar<'n>(&self, node: &'n Node) -> Option<Cow<'n, str>>
    where
        't: 'n,
    {
        match &node.value {
            Value::Text { text, .. } => Some(Cow::Borrowed(text)),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) => Some(Cow::Borrowed(self.written(node))),
            Value::Null | Value::List(_) | Value::Mapping(_) | Value::Broken => None,
        }
    }

    /// Holds a mapping against its grammar. `what` names it for messages when it is something else. A mapping of
    /// which nothing is written (`reload:`) is empty.
    pub(super) fn section<'n>(
        &mut self,
        node: Option<&'n Node>,
        span: Range<usize>,
        path: &str,
        keys: &'static [Key],
    ) -> Section<'n> {
        let mut section = Section { path: path.to_owned(), span, keys, entries: Vec::new() };
        let entries = match node.map(|node| (&node.value, node)) {
            Some((Value::Mapping(entries), _)) => entries,
            None | Some((Value::Null, _)) => return section,
            Some((_, node)) => {
                self.wrong(node, path, "a mapping");
                return section;
            }
        };
        for entry in entries {
            match keys.iter().find(|key| key.name == entry.key) {
                Some(Key { form: Form::Unsupported, name, .. }) => self.error(
                    entry.key_span.clone(),
                    format!("{}: not supported by this version", join(path, name)),
                    Some("remove it".to_owned()),
                ),
                Some(key) => section.entries.push((key, entry)),
                None => self.unknown(entry, path, keys),
            }
        }
        section
    }

    /// A section under a key of another one.
    pub(super) fn subsection<'n>(&mut self, parent: &Section<'n>, name: &str) -> Section<'n> {
        let field = parent.field(name);
        let keys = match field.key.form {
            Form::Section(keys) => keys,
            _ => &[],
        };
        let span = field.key_span.clone().unwrap_or(parent.span.clone());
        self.section(field.node, span, &field.path, keys)
    }

    fn unknown(&mut self, entry: &Entry, path: &str, keys: &'static [Key]) {
        let known = || keys.iter().filter(|key| !matches!(key.form, Form::Unsupported)).map(|key| key.name);
        let home = keys.iter().find(|key| match key.form {
            Form::Section(inner) => inner.iter().any(|inner| inner.name == entry.key),
            _ => false,
        });
        let help = match (meant(&entry.key, known()), home) {
            (_, Some(home)) => format!("`{}` belongs under `{}`", entry.key, home.name),
            (Some(meant), None) => format!("did you mean `{meant}`?"),
            (None, None) => format!("known keys: {}", known().collect::<Vec<_>>().join(", ")),
        };
        let place = match path {
            "" => String::new(),
            path => format!(" in `{path}`"),
        };
        self.error(entry.key_span.clone(), format!("unknown key {}{place}", quoted(&entry.key)), Some(help));
    }

    /// A text that is not empty.
    pub(super) fn text<'n>(&mut self, field: &Field<'n>) -> Option<&'n str> {
        let node = field.node?;
        match &node.value {
            Value::Text { text, .. } if text.is_empty() => {
                self.error(node.span.clone(), format!("{}: is empty", field.path), None);
                None
            }
            Value::Text { text, .. } if text.contains('\0') => {
                self.error(node.span.clone(), format!("{}: contains a NUL character", field.path), None);
                None
            }
            Value::Text { text, .. } => Some(text),
            _ => {
                self.wrong(node, &field.path, "a text");
                None
            }
        }
    }

    /// A truth value.
    pub(super) fn flag(&mut self, field: &Field<'_>) -> bool {
        let default = field.key.default == "true";
        match field.node {
            None => default,
            Some(node) => match &node.value {
                Value::Bool(value) => *value,
                // A variable's value is always text.
                Value::Text { text, expanded: true } if text == "true" => true,
                Value::Text { text, expanded: true } if text == "false" => false,
                _ => {
                    self.wrong(node, &field.path, "true or false");
                    default
                }
            },
        }
    }

    /// A whole number within the grammar's bounds; `None`: `auto`.
    pub(super) fn count_or_auto(&mut self, field: &Field<'_>) -> Option<u64> {
        let default = field.key.default.parse().ok();
        let Form::Count { least, most, auto } = field.key.form else {
            return default;
        };
        let Some(node) = field.node else {
            return default;
        };
        let expected = if auto { "a number or auto" } else { "a number" };
        let number = match &node.value {
            Value::Integer(number) => *number,
            Value::Text { text, .. } if auto && text == "auto" => return None,
            Value::Text { text, expanded: true } if text.parse::<i128>().is_ok() => text.parse().unwrap_or_default(),
            _ => {
                self.wrong(node, &field.path, expected);
                return default;
            }
        };
        match u64::try_from(number) {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                let bound =
                    if number < i128::from(least) { format!("at least {least}") } else { format!("at most {most}") };
                self.error(node.span.clone(), format!("{}: must be {bound}, found {number}", field.path), None);
                default
            }
        }
    }

    /// A whole number within the grammar's bounds.
    pub(super) fn count(&mut self, field: &Field<'_>) -> u64 {
        self.count_or_auto(field).unwrap_or_default()
    }

    /// A whole number that the grammar bounds to 32 bits.
    pub(super) fn small(&mut self, field: &Field<'_>) -> u32 {
        u32::try_from(self.count(field)).unwrap_or(u32::MAX)
    }

    /// A duration.
    pub(super) fn duration(&mut self, field: &Field<'_>) -> Duration {
        let read = |text: &str| {
            let duration = units::duration(text)?;
            if duration.is_zero() && matches!(field.key.form, Form::Duration { zero: false }) {
                return Err(Complaint::new("must be longer than zero"));
            }
            Ok(duration)
        };
        self.parsed(field, "a duration such as `30s`", read).unwrap_or_default()
    }

    /// A size in bytes; `None`: not given, and there is no default.
    pub(super) fn size(&mut self, field: &Field<'_>) -> Option<u64> {
        self.parsed(field, "a size such as `64MiB`", |text| {
            let size = units::size(text)?;
            match field.key.form {
                Form::Size { least } if size < least => {
                    Err(Complaint::new(format!("must be at least {}KiB, found {}", least >> 10, quoted(text))))
                }
                _ => Ok(size),
            }
        })
    }

    /// A value that is written as a text of its own little grammar. A bad one is reported and the default taken.
    pub(super) fn parsed<T>(
        &mut self,
        field: &Field<'_>,
        expected: &str,
        read: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        let default = || read(field.key.default).ok();
        let Some(node) = field.node else {
            return default();
        };
        // A bare number is read as well: it is its missing unit that has to be told.
        match (&node.value, self.scalar(node)) {
            (Value::Bool(_), _) | (_, None) => {
                self.wrong(node, &field.path, expected);
                default()
            }
            (_, Some(text)) => self.accept(node, &field.path, read(&text)).or_else(default),
        }
    }

    /// One of the grammar's words.
    pub(super) fn choice(&mut self, field: &Field<'_>) -> &'static str {
        let words = match field.key.form {
            Form::Choice(words) => words,
            _ => &[],
        };
        let Some(node) = field.node else {
            return field.key.default;
        };
        let expected = match words {
            [word] => format!("`{word}`"),
            words => format!("one of {}", words.join(", ")),
        };
        match &node.value {
            Value::Text { text, .. } => match words.iter().find(|word| *word == text) {
                Some(word) => return word,
                None => {
                    let help = meant(text, words.iter().copied()).map(|word| format!("did you mean `{word}`?"));
                    self.error(
                        node.span.clone(),
                        format!("{}: expected {expected}, found {}", field.path, quoted(text)),
                        help,
                    );
                }
            },
            _ => self.wrong(node, &field.path, &expected),
        }
        field.key.default
    }
}
