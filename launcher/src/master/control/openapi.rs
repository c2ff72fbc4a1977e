//! The description of the control API (OpenAPI 3.1), made from the table of routes and the types of the contract, so
//! that it cannot say anything else than what is served.

use http::Method;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Value, json};

use super::routes::{Operation, ROUTES, Route};
use crate::api;

/// The whole description.
pub(super) fn description() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let mut paths = serde_json::Map::new();
    for route in ROUTES {
        let operations = paths.entry(route.path).or_insert_with(|| json!({}));
        operations[route.method.as_str().to_ascii_lowercase()] = operation(route, &mut schemas);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "launcher",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Served on the Unix socket `control.sock` in the launcher's state directory, to its own \
                user and root. HTTP/1.1; the host does not matter.",
        },
        "paths": paths,
        "components": { "schemas": schemas.take_definitions(true) },
    })
}

fn operation(route: &Route, schemas: &mut SchemaGenerator) -> Value {
    let id = format!("{:?}", route.operation);
    let refusal = schemas.subschema_for::<api::Refusal>();
    let answer = |description: &str, kind: &str, schema: Value| json!({ "description": description, "content": { kind: { "schema": schema } } });
    let mut responses = serde_json::Map::new();
    let (kind, schema) = response(route.operation, schemas);
    responses.insert("200".to_owned(), answer("Done", kind, schema.clone()));
    if route.method == Method::POST && !matches!(route.operation, Operation::Plan | Operation::Send) {
        responses.insert("202".to_owned(), answer("Begun; nobody waits for the end", kind, schema));
    }
    responses.insert("default".to_owned(), answer("Refused", "application/json", json!(refusal)));
    let mut operation = json!({
        "operationId": id[..1].to_ascii_lowercase() + &id[1..],
        "summary": route.about,
        "responses": responses,
    });
    let parameters = parameters(route);
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    let body = match route.operation {
        Operation::Scale => Some((json!(schemas.subschema_for::<api::Scale>()), true)),
        Operation::Plan | Operation::Apply => Some((json!(schemas.subschema_for::<api::ConfigFile>()), false)),
        Operation::Upgrade => Some((json!(schemas.subschema_for::<api::Upgrade>()), false)),
        Operation::Send => Some((json!(schemas.subschema_for::<api::Send>()), true)),
        _ => None,
    };
    if let Some((schema, required)) = body {
        operation["requestBody"] =
            json!({ "required": required, "content": { "application/json": { "schema": schema } } });
    }
    operation
}

/// The content type and schema of what is answered.
fn response(operation: Operation, schemas: &mut SchemaGenerator) -> (&'static str, Value) {
    let schema = match operation {
        Operation::Describe => json!({ "type": "object" }),
        Operation::Status => json!(schemas.subschema_for::<api::Status>()),
        Operation::Services => json!(schemas.subschema_for::<Vec<api::Service>>()),
        Operation::Service => json!(schemas.subschema_for::<api::Service>()),
        Operation::Workers => json!(schemas.subschema_for::<Vec<api::ServiceWorker>>()),
        Operation::ReloadAll
        | Operation::RestartAll
        | Operation::StopLauncher
        | Operation::Reload
        | Operation::Restart
        | Operation::Rollback
        | Operation::Scale
        | Operation::Stop
        | Operation::Start => json!(schemas.subschema_for::<api::Outcomes>()),
        Operation::Config => json!(schemas.subschema_for::<api::ConfigInForce>()),
        Operation::Plan => json!(schemas.subschema_for::<api::Plan>()),
        Operation::Apply => json!(schemas.subschema_for::<api::Applied>()),
        Operation::Upgrade => json!(schemas.subschema_for::<api::Upgrading>()),
        Operation::Send => json!(schemas.subschema_for::<api::Delivered>()),
        Operation::Events | Operation::Logs => {
            return ("application/jsonl", json!(schemas.subschema_for::<api::Record>()));
        }
    };
    ("application/json", schema)
}

fn parameters(route: &Route) -> Vec<Value> {
    let query = |name: &str, kind: &str, about: &str| json!({ "name": name, "in": "query", "schema": { "type": kind }, "description": about });
    let mut parameters = Vec::new();
    if route.path.contains("{name}") {
        parameters.push(json!({
            "name": "name", "in": "path", "required": true, "schema": { "type": "string" },
            "description": "A service",
        }));
    }
    match route.operation {
        Operation::StopLauncher => parameters.push(query("now", "boolean", "Do not wait for what is in flight")),
        Operation::Events | Operation::Logs => {
            parameters.push(query("follow", "boolean", "Go on with what happens"));
            parameters.push(query("lines", "integer", "So many of the last records"));
            parameters.push(query("since", "string", "A time (RFC 3339), or how long ago (10m)"));
            parameters.push(query("service", "string", "Of these services only, separated by commas"));
        }
        Operation::Plan | Operation::Upgrade | Operation::Send => {}
        _ if route.method == Method::POST => {
            parameters.push(query("wait", "boolean", "Answer when it has ended, with how it ended"));
        }
        _ => {}
    }
    parameters
}
