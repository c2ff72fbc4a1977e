//! The grammar as a page for people, `docs/reference/configuration.md`.
//!
//! Rendered from [`super::grammar`], which the reader and the schema obey as well.

use std::fmt::Write as _;

use super::grammar::{Form, Key, ROOT};

/// Every key of a configuration, as Markdown.
pub fn reference() -> String {
    let mut page = "# Configuration\n\n\
        Written by `launcher reference configuration` from the grammar that reads the file; edit neither by hand. \
        `launcher schema` has the same as a JSON Schema, for editors. Unknown keys are errors. `${VAR}` and \
        `${VAR:-default}` are replaced in text; `$${` is a literal `${`. Durations look like `100ms`, `30s`, `1m30s`, sizes \
        like `64MiB`, `10MB`.\n"
        .to_owned();
    section(&mut page, "", "The file", "", ROOT);
    page
}

fn section(page: &mut String, path: &str, title: &str, about: &str, keys: &[Key]) {
    let about = if about.is_empty() { String::new() } else { format!("{}.\n\n", sentence(about)) };
    let _ = write!(page, "\n## {title}\n\n{about}| key | value | default | |\n|---|---|---|---|\n");
    let known = || keys.iter().filter(|key| !matches!(key.form, Form::Unsupported));
    for key in known() {
        let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
        let _ = writeln!(page, "| `{}` | {} | {default} | {} |", key.name, value(key), cell(key.about));
    }
    for key in known() {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let (path, keys) = match key.form {
            Form::Services(keys) => (below(&format!("{}.NAME", key.name)), keys),
            Form::Section(keys) | Form::Access(keys) | Form::Listen(keys) => (below(key.name), keys),
            Form::Directories(keys) => (below(&format!("{}[]", key.name)), keys),
            _ => continue,
        };
        section(page, &path, &format!("`{path}`"), key.about, keys);
    }
}

/// What a value looks like.
fn value(key: &Key) -> String {
    let example = || if key.example.is_empty() { String::new() } else { format!(", such as `{}`", key.example) };
    match &key.form {
        Form::Text => format!("text{}", example()),
        Form::Flag => "`true` or `false`".to_owned(),
        Form::Count { least, most, auto } => {
            let range = if *most < u64::MAX { format!("{least} to {most}") } else { format!("{least} or more") };
            if *auto { format!("{range}, or `auto`") } else { range }
        }
        Form::Duration { zero: true } => format!("a duration{}", example()),
        Form::Duration { zero: false } => format!("a duration longer than zero{}", example()),
        Form::Size { .. } => format!("a size{}", example()),
        Form::Backoff => format!("two durations{}", example()),
        Form::Budget => format!("a number in a time{}", example()),
        Form::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Form::Section(_) => "a mapping, below".to_owned(),
        Form::Services(_) => "a mapping from names to mappings, below".to_owned(),
        Form::Access(_) => "a format, or a mapping, below".to_owned(),
        Form::Listen(_) => "an address, a mapping (below), or a list of them".to_owned(),
        Form::Environment => format!("a mapping from names to values{}", example()),
        Form::Any => format!("any YAML{}", example()),
        Form::Directories(_) => "a list of mappings, below".to_owned(),
        Form::Peers => format!("a list of `HOST:PORT`{}", example()),
        Form::Account => "a name or a number".to_owned(),
        Form::Unsupported => String::new(),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
