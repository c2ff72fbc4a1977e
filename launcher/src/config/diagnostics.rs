//! What is wrong with a configuration, where, and what to do about it.
//!
//! Flow: the reader collects [`Diagnostic`]s with byte positions; [`Diagnostics`] keeps them with the text of the
//! file and renders each with its line through annotate-snippets. Nothing here knows the grammar.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Diagnostics of one file beyond which the rest is only counted: a wrong indentation can make hundreds.
const SHOWN: usize = 50;

/// Characters of a foreign text that a message quotes.
const QUOTED: usize = 80;

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, and probably does not do what its author thinks.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: lower case, names the key.
    pub message: String,
    /// Bytes of the file's text that are wrong; `None`: the file as a whole.
    pub span: Option<Range<usize>>,
    /// What to do about it, or where else to look.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), span: Some(span), help: None }
    }

    /// A warning at a place.
    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// An error about the file as a whole, such as one that cannot be read.
    pub fn whole(message: impl Into<String>) -> Self {
        Self { span: None, ..Self::error(0..0, message) }
    }

    /// Says what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Why a piece of text does not mean anything; the caller knows its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Complaint {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Complaint {
    /// A complaint without advice.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    /// Says what to write instead.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Everything that is wrong with one file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostics {
    path: String,
    #[serde(with = "shared")]
    text: Arc<str>,
    list: Vec<Diagnostic>,
}

/// A shared text is written like any other.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        Ok(String::deserialize(deserializer)?.into())
    }
}

impl Diagnostics {
    /// Diagnostics of the file that was named `path` and holds `text`. Equal ones, as an alias makes them, are
    /// kept once.
    pub fn new(path: impl Into<String>, text: impl Into<Arc<str>>, list: Vec<Diagnostic>) -> Self {
        let mut kept: Vec<Diagnostic> = Vec::with_capacity(list.len());
        let mut sorted = list;
        sorted.sort_by_key(|diagnostic| diagnostic.span.as_ref().map(|span| span.start));
        for diagnostic in sorted {
            let start = diagnostic.span.as_ref().map(|span| span.start);
            // Only neighbours at one place can be equal, because the sort is by place.
            let known = kept
                .iter()
                .rev()
                .take_while(|other| other.span.as_ref().map(|span| span.start) == start)
                .take(SHOWN)
                .any(|other| *other == diagnostic);
            if !known {
                kept.push(diagnostic);
            }
        }
        Self { path: path.into(), text: text.into(), list: kept }
    }

    /// The diagnostics, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Number of diagnostics.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether one of them makes the configuration unusable.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// The text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file, as the operator named it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Line and column of a diagnostic, both from 1, the column in characters; `None` for the file as a whole.
    pub fn position(&self, diagnostic: &Diagnostic) -> Option<(usize, usize)> {
        let span = diagnostic.span.as_ref()?;
        Some(position(&self.text, span.start))
    }

    /// All of them as text for a person; ends with a newline unless it is empty.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for diagnostic in self.list.iter().take(SHOWN) {
            out.push_str(&renderer.render(&[self.group(diagnostic)]));
            out.push_str("\n\n");
        }
        out.truncate(out.trim_end().len());
        if self.list.len() > SHOWN {
            let more = self.list.len() - SHOWN;
            // Writing to a String cannot fail.
            let _ = write!(out, "\n\n… and {more} more in {}", self.path);
        }
        if !out.is_empty() {
            out.push('\n');
        }
        out
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(diagnostic.message.as_str());
        let group = match &diagnostic.span {
            None => title.element(Origin::path(self.path.as_str())),
            Some(span) => {
                let line = Line::around(&self.text, span);
                title.element(
                    Snippet::source(line.text)
                        .path(self.path.as_str())
                        .line_start(line.number)
                        .annotation(AnnotationKind::Primary.span(line.span)),
                )
            }
        };
        match &diagnostic.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// The one line that a snippet shows: passing the whole file would cost time by its size for each diagnostic.
struct Line<'a> {
    text: &'a str,
    number: usize,
    span: Range<usize>,
}

impl<'a> Line<'a> {
    fn around(text: &'a str, span: &Range<usize>) -> Self {
        let at = floor(text, span.start);
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |length| at + length);
        let line = text[start..end].trim_end_matches('\r');
        let from = (at - start).min(line.len());
        let to = floor(text, span.end.max(at)).min(end);
        Self { text: line, number: position(text, at).0, span: from..(to - start).clamp(from, line.len()) }
    }
}

/// Line and column, from 1, of a byte of `text`; the column counts characters.
pub(super) fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = &text[..floor(text, byte)];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
    (line, 1 + before[start..].chars().count())
}

/// The nearest start of a character at or before `byte`, within `text`.
pub(super) fn floor(text: &str, byte: usize) -> usize {
    text.floor_char_boundary(byte.min(text.len()))
}

/// A foreign text between backquotes: shortened, and without control characters, which would reach the terminal.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("`");
    for (count, char) in text.chars().enumerate() {
        if count == QUOTED {
            out.push('…');
            break;
        }
        match char {
            char if char.is_control() => out.extend(char.escape_default()),
            char => out.push(char),
        }
    }
    out.push('`');
    out
}

/// Which of `known` was probably meant by `written`.
pub fn meant<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing very long texts costs the product of their lengths and finds nothing.
    if written.len() > QUOTED {
        return None;
    }
    let folded = |text: &str| text.to_lowercase().replace(['-', '_', ' '], "");
    let wanted = folded(written);
    known
        .into_iter()
        .map(|known| (strsim::osa_distance(&wanted, &folded(known)), known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1) && *distance < wanted.len().max(1))
        .min()
        .map(|(_, known)| known)
}
