//! Whether a JSON value is what a schema says, for the part of JSON Schema that the launcher's description uses. What
//! the schema does not name is a fault too: a description that leaves things out is no description.

use serde_json::Value;

/// Checks `value`; `root` holds what `$ref` names. The faults, with their places.
pub(crate) fn faults(value: &Value, schema: &Value, root: &Value, place: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("references are local");
        let target = root.pointer(pointer).unwrap_or_else(|| panic!("{reference} names nothing"));
        return faults(value, target, root, place);
    }
    for either in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[either].as_array() {
            let tried: Vec<_> = choices.iter().map(|choice| faults(value, choice, root, place)).collect();
            let good = tried.iter().any(Vec::is_empty);
            return if good { Vec::new() } else { tried.concat() };
        }
    }
    let mut found = Vec::new();
    if let Some(constant) = schema.get("const")
        && constant != value
    {
        found.push(format!("{place}: {value} is not {constant}"));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{place}: {value} is none of {allowed:?}"));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{place}: the schema has an unknown type {other}"),
    };
    if !types.is_empty() && !types.iter().any(is) {
        found.push(format!("{place}: {value} is not {types:?}"));
    }
    if let Some(items) = value.as_array() {
        for (index, item) in items.iter().enumerate() {
            found.extend(faults(item, &schema["items"], root, &format!("{place}[{index}]")));
        }
    }
    if let (Some(fields), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(required) {
                found.push(format!("{place}: {required} is missing"));
            }
        }
        for (name, field) in fields {
            match properties.get(name) {
                Some(property) => found.extend(faults(field, property, root, &format!("{place}.{name}"))),
                None if schema["additionalProperties"] == true => {}
                None => found.push(format!("{place}: {name} is not described")),
            }
        }
    }
    found
}

#[test]
fn the_checker_finds_faults() {
    use serde_json::json;
    let root = json!({ "defs": { "n": { "type": ["integer", "null"] } } });
    let schema = json!({
        "type": "object", "required": ["a"],
        "properties": { "a": { "type": "string", "enum": ["x"] }, "n": { "$ref": "#/defs/n" } },
    });
    let count = |value: Value| faults(&value, &schema, &root, "").len();
    assert_eq!(count(json!({ "a": "x", "n": null })), 0);
    for bad in [json!({}), json!({ "a": "y" }), json!({ "a": "x", "n": "1" }), json!({ "a": "x", "b": 1 }), json!([])] {
        assert_eq!(count(bad.clone()), 1, "{bad}");
    }
}
