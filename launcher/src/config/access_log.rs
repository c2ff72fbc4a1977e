//! `access_log:` of a service: a word, or a mapping.

use std::path::Path;

use super::grammar::{ACCESS_LOG, Form};
use super::reader::{Field, Reader, Section};
use super::written::Value;
use super::{AccessFormat, AccessLog, places};

/// Reads it. `None`: requests are not told.
pub(super) fn access_log(reader: &mut Reader<'_>, service: &Section<'_>, base: &Path) -> Option<AccessLog> {
    let field = service.field("access_log");
    debug_assert!(matches!(field.key.form, Form::Access(_)));
    let node = field.node?;
    let format = |word: &str| if word == "combined" { AccessFormat::Combined } else { AccessFormat::Json };
    if let Value::Text { .. } = node.value {
        // The shorthand is the value of the mapping's `format`.
        let key = ACCESS_LOG.iter().find(|key| key.name == "format")?;
        let word = reader.choice(&Field { path: field.path, key, node: field.node, key_span: field.key_span });
        return Some(AccessLog { format: format(word), file: None });
    }
    match node.value {
        Value::Mapping(_) => {}
        // Nothing is written: nothing is wanted.
        Value::Null => return None,
        _ => {
            reader.wrong(node, &field.path, "json, combined or a mapping");
            return None;
        }
    }
    let section = reader.section(Some(node), node.span.clone(), &field.path, ACCESS_LOG);
    let format = format(reader.choice(&section.field("format")));
    let file = reader.text(&section.field("file")).map(|text| places::file(text, base));
    Some(AccessLog { format, file })
}
