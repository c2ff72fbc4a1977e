//! The grammar as a JSON Schema (draft 2020-12), for editors and `launcher schema`.
//!
//! Rendered from [`super::grammar`], which the reader obeys as well.

use serde_json::{Map, Value, json};

use super::grammar::{Form, Key, ROOT};

/// JSON Schema of a configuration.
pub fn schema() -> Value {
    let mut schema = object(ROOT, &["services"]);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("configuration of launcher");
    schema
}

fn object(keys: &[Key], required: &[&str]) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .filter(|key| !matches!(key.form, Form::Unsupported))
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn property(key: &Key) -> Value {
    let mut schema = form(&key.form);
    schema["description"] = json!(key.about);
    // Examples are YAML; one that is not would fail the test that reads every key.
    if let Ok(example @ (Value::String(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) =
        serde_saphyr::from_str::<Value>(key.example)
    {
        schema["examples"] = json!([example]);
    }
    if !key.default.is_empty() {
        schema["default"] = match key.form {
            Form::Flag => json!(key.default == "true"),
            Form::Count { .. } => key.default.parse::<u64>().map_or(json!(key.default), |number| json!(number)),
            _ => json!(key.default),
        };
    }
    schema
}

/// A text with a variable in it is whatever the variable brings.
const VARIABLE: &str = r"\$\{";

fn text(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": format!("^({pattern})$|{VARIABLE}") })
}

fn form(form: &Form) -> Value {
    // The look-ahead refuses the empty text, which the optional parts alone would match.
    const TIME: &str = "(?=[0-9])([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?";
    let variable = json!({ "type": "string", "pattern": VARIABLE });
    match form {
        Form::Text => json!({ "type": "string", "minLength": 1 }),
        Form::Flag => json!({ "anyOf": [{ "type": "boolean" }, variable] }),
        Form::Count { least, most, auto } => {
            let mut number = json!({ "type": "integer", "minimum": least });
            if *most < u64::MAX {
                number["maximum"] = json!(most);
            }
            match auto {
                true => json!({ "anyOf": [number, { "const": "auto" }, variable] }),
                false => json!({ "anyOf": [number, variable] }),
            }
        }
        Form::Duration { .. } => text(TIME),
        Form::Size { .. } => text("[0-9]+([kKMGT]B|[KMGT]iB|B)"),
        Form::Backoff => text(&format!(r"{TIME}\.\.{TIME}")),
        Form::Budget => text(&format!("[0-9]+/{TIME}")),
        Form::Choice(words) => json!({ "anyOf": [{ "enum": words }, variable] }),
        Form::Section(keys) => nullable(object(keys, &[])),
        Form::Services(keys) => json!({
            "type": "object",
            "minProperties": 1,
            "propertyNames": { "pattern": "^[A-Za-z0-9_-]{1,64}$" },
            "additionalProperties": object(keys, &["plugin", "listen"]),
        }),
        Form::Access(keys) => {
            let words = keys.iter().find_map(|key| match key.form {
                Form::Choice(words) => Some(words),
                _ => None,
            });
            json!({ "anyOf": [{ "enum": words }, nullable(object(keys, &[])), variable] })
        }
        Form::Listen(keys) => {
            let one = json!([{ "type": "string", "minLength": 1 }, object(keys, &["address"])]);
            let mut all = vec![json!({ "type": "array", "minItems": 1, "items": { "anyOf": one } })];
            all.extend(one.as_array().cloned().unwrap_or_default());
            json!({ "anyOf": all })
        }
        Form::Environment => json!({
            "type": ["object", "null"],
            "additionalProperties": { "type": ["string", "number", "boolean"] },
        }),
        Form::Any => json!({}),
        Form::Directories(keys) => {
            json!({ "type": ["array", "null"], "items": object(keys, &["host", "guest"]) })
        }
        Form::Peers => {
            json!({ "type": ["array", "null"], "items": { "type": "string", "pattern": format!(":[0-9]+$|{VARIABLE}") } })
        }
        Form::Account => json!({ "type": ["string", "integer"], "minimum": 0 }),
        Form::Unsupported => json!(false),
    }
}

fn nullable(mut schema: Value) -> Value {
    schema["type"] = json!(["object", "null"]);
    schema
}
