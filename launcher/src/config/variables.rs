//! `${VAR}`, `${VAR:-default}` and `$${` in the texts of the file.
//!
//! Expansion happens after parsing, on every text value: a variable's value can therefore never change the structure
//! of the file. Keys are left alone. What a variable brings is not expanded again.

use super::diagnostics::{Complaint, Diagnostic, quoted};
use super::written::{Node, Value};

/// Looks a variable up; the error is a value that is no text.
pub(super) type Lookup<'a> = dyn Fn(&str) -> Result<Option<String>, Complaint> + 'a;

/// Expands every text below `node`. A text that cannot be expanded is reported and becomes [`Value::Broken`].
pub(super) fn expand(node: &mut Node, lookup: &Lookup<'_>, found: &mut Vec<Diagnostic>) {
    match &mut node.value {
        Value::Text { text, expanded } => match expand_text(text, lookup) {
            Ok(None) => {}
            Ok(Some(new)) => {
                *text = new;
                *expanded = true;
            }
            Err(complaint) => {
                found.push(Diagnostic {
                    help: complaint.help,
                    ..Diagnostic::error(node.span.clone(), complaint.message)
                });
                node.value = Value::Broken;
            }
        },
        Value::List(items) => items.iter_mut().for_each(|item| expand(item, lookup, found)),
        Value::Mapping(entries) => entries.iter_mut().for_each(|entry| expand(&mut entry.node, lookup, found)),
        Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Broken => {}
    }
}

/// The text with its variables replaced; `None` where there is nothing to replace.
fn expand_text(text: &str, lookup: &Lookup<'_>) -> Result<Option<String>, Complaint> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some(end) = after.find('}') else {
            return Err(Complaint::new("`${` without its `}`").help("for a literal `${` write `$${`"));
        };
        out.push_str(&value(&after[..end], lookup)?);
        rest = &after[end + 1..];
    }
    out.push_str(rest);
    Ok(Some(out))
}

/// What `${inner}` stands for. As in a shell, `:-` also replaces an empty value.
fn value(inner: &str, lookup: &Lookup<'_>) -> Result<String, Complaint> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let well_formed = name
        .bytes()
        .enumerate()
        .all(|(index, byte)| byte == b'_' || byte.is_ascii_alphabetic() || index > 0 && byte.is_ascii_digit());
    if name.is_empty() || !well_formed {
        return Err(Complaint::new(format!("`${{…}}` holds {}, which is not a variable's name", quoted(name)))
            .help("write `${NAME}` or `${NAME:-default}`; for a literal `${` write `$${`"));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(Complaint::new(format!(
            "the default of the variable {} holds another variable, which is not expanded",
            quoted(name)
        )));
    }
    match (lookup(name)?, default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Complaint::new(format!("the variable {} is not set", quoted(name)))
            .help(format!("set it, or give a default: `${{{name}:-default}}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Result<Option<String>, Complaint> {
        Ok(match name {
            "NAME" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("${NAME}".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn variables_defaults_and_literals_are_told_apart() {
        for (text, expected) in [
            ("plain $NAME $$ $", None),
            ("${NAME}", Some("value")),
            ("a${NAME}b${NAME}", Some("avaluebvalue")),
            ("${NONE:-x y}", Some("x y")),
            ("${NONE:-}", Some("")),
            ("${EMPTY}", Some("")),
            ("${EMPTY:-full}", Some("full")),
            ("${NAME:-other}", Some("value")),
            ("$${NAME}", Some("${NAME}")),
            ("$$${NAME}", Some("$${NAME}")),
            ("${DOLLAR}", Some("${NAME}")),
            ("é${NAME}é", Some("évalueé")),
        ] {
            assert_eq!(expand_text(text, &lookup), Ok(expected.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_is_refused() {
        for (text, message) in [
            ("${NONE}", "the variable `NONE` is not set"),
            ("${NAME", "`${` without its `}`"),
            ("${}", "`${…}` holds ``, which is not a variable's name"),
            ("${1A}", "`${…}` holds `1A`, which is not a variable's name"),
            ("${A-b}", "`${…}` holds `A-b`, which is not a variable's name"),
            ("${NONE:-${NAME}}", "the default of the variable `NONE` holds another variable, which is not expanded"),
        ] {
            let complaint = expand_text(text, &lookup).expect_err(text);
            assert_eq!(complaint.message, message, "{text}");
        }
    }
}
