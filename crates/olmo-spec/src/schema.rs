//! The JSON Schemas that are derived from the document types and the stages' contracts.
//!
//! A *strict* schema describes a document whose `${…}` are all known; the engine checks with it. An
//! *authoring* schema is for editors: where a `${…}` is allowed, every value may also be a text that
//! contains one. On a document without `${` both agree (tested).

use std::collections::BTreeMap;
use std::path::Path;

use olmo_stage::Description;
use serde_json::{Map, Value, json};

use crate::compose::pipeline as pipelines;
use crate::document::catalog::Catalog;
use crate::document::check::{EXPECTED, REFERENCES};
use crate::read::diagnostic::{Diagnostic, Diagnostics};
use crate::read::node::Node;
use crate::read::source::{Problem, Session};

pub use crate::document::strict::{experiment, pipeline, stage};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The strict schema of the experiments that use one pipeline: its params and the `with` of its
/// stages have their types.
///
/// # Errors
/// All errors in the pipeline.
pub fn experiment_for(file: &Path, cwd: &Path, builtin: &[(&str, &str)]) -> Result<Value, Diagnostics> {
    let mut catalog = Catalog::builtin(builtin)?;
    let mut session = Session::default();
    let schema = pipelines::read(&mut session, &mut catalog, file, cwd, None)
        .map(|read| for_pipeline(&mut session, &mut catalog, &read, cwd));
    session.finish()?;
    schema.ok_or_else(|| {
        let message = format!("cannot read `{}`", file.display());
        Diagnostics::new(vec![Diagnostic::plain("spec::unreadable", message)])
    })
}

fn for_pipeline(session: &mut Session, catalog: &mut Catalog, read: &pipelines::Read, cwd: &Path) -> Value {
    let mut schema = experiment();
    let params: Map<String, Value> =
        read.params.iter().filter_map(|param| Some((param.name.clone(), param.spec.as_ref()?.schema()))).collect();
    let params = json!({"type": "object", "properties": params, "additionalProperties": false});
    let mut stages = Map::new();
    for entry in read.node.get("stages").map_or(&[][..], Node::entries) {
        let Some(uses) = entry.value.get("uses").filter(|uses| uses.as_str().is_some()) else { continue };
        let Some(found) = catalog.find(session, uses.as_str().unwrap_or(""), uses.span, cwd) else { continue };
        let change = schema.pointer("/properties/stages/additionalProperties").cloned().unwrap_or_default();
        stages.insert(entry.key.clone(), typed_stage(change, &found.description));
    }
    let mut put = |pointer: &str, value: Value| match schema.pointer_mut(pointer) {
        Some(place) => keep_description(place, value),
        None => {
            session.report(Problem::new("spec::bad_contract", read.node.span, format!("the schema has no {pointer}")));
        }
    };
    put("/properties/params", params.clone());
    put("/properties/profiles/additionalProperties", params.clone());
    typed_sweep(&mut schema, &params);
    if let Some(place) = schema.pointer_mut("/properties/stages").and_then(Value::as_object_mut) {
        place.insert("properties".into(), stages.into());
    }
    schema
}

/// Gives params that a sweep changes as a whole their types. Other paths are not known here.
fn typed_sweep(schema: &mut Value, params: &Value) {
    let Some(sweep) = schema.pointer_mut("/properties/sweep") else { return };
    let of_params = || params.get("properties").and_then(Value::as_object).into_iter().flatten();
    let each = |list: bool| -> Map<String, Value> {
        let typed = |(name, schema): (&String, &Value)| {
            let schema = if list { json!({"type": "array", "minItems": 1, "items": schema}) } else { schema.clone() };
            (format!("params.{name}"), schema)
        };
        of_params().map(typed).collect()
    };
    for (pointer, list) in [
        ("/properties/grid", true),
        ("/properties/zip", true),
        ("/properties/list/items", false),
        ("/properties/include/items", false),
        ("/properties/exclude/items", false),
    ] {
        if let Some(place) = sweep.pointer_mut(pointer).and_then(Value::as_object_mut) {
            place.insert("properties".into(), each(list).into());
        }
    }
}

/// Replaces a schema except its description.
fn keep_description(place: &mut Value, mut value: Value) {
    if let (Some(old), Some(new)) = (place.get("description").cloned(), value.as_object_mut()) {
        new.insert("description".into(), old);
    }
    *place = value;
}

/// `change`, the schema of any stage's entry, with the `with` of the stage `description`.
fn typed_stage(mut change: Value, description: &Description) -> Value {
    let mut properties = Map::new();
    for (name, port) in &description.contract.inputs {
        let kind = if port.list { "array" } else { "string" };
        let types = if port.optional { json!([kind, "object", "null"]) } else { json!([kind, "object"]) };
        // An object is `{first: […]}`: the first available alternative.
        let first = json!({"first": {"type": "array", "minItems": 1}});
        let mut schema =
            json!({"type": types, "properties": first, "required": ["first"], "additionalProperties": false});
        if let (true, Some(map)) = (port.list, schema.as_object_mut()) {
            map.insert("items".into(), json!({"type": "string"}));
            map.insert("minItems".into(), u64::from(!port.optional).into());
        }
        let kind = if port.list { format!("list of {}", port.port_type) } else { port.port_type.to_string() };
        let text = format!("Input ({kind}). {}", port.summary);
        if let Some(map) = schema.as_object_mut() {
            map.insert("description".into(), text.trim_end().into());
        }
        properties.insert(name.clone(), schema);
    }
    for (name, param) in description.params.get("properties").and_then(Value::as_object).into_iter().flatten() {
        properties.insert(name.clone(), param.clone());
    }
    let with = json!({"type": "object", "properties": properties, "additionalProperties": false, REFERENCES: true});
    // The entry is a map or null: the `with` of the map's branch is the one to replace.
    replace_with(&mut change, &with);
    change
}

fn replace_with(schema: &mut Value, with: &Value) {
    if let Some(place) = schema.pointer_mut("/properties/with") {
        return keep_description(place, with.clone());
    }
    for union in ["anyOf", "oneOf"] {
        for branch in schema.get_mut(union).and_then(Value::as_array_mut).into_iter().flatten() {
            replace_with(branch, with);
        }
    }
}

/// The authoring form of a strict schema.
pub fn authoring(strict: &Value) -> Value {
    loosened(strict, Place::Fixed)
}

/// Whether a `${…}` is allowed at a place of a schema.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Fixed,
    /// A fixed map whose values are open.
    Holder,
    Open,
}

fn loosened(schema: &Value, place: Place) -> Value {
    let Some(map) = schema.as_object() else { return schema.clone() };
    let object = map.get("properties").is_some();
    let here = match (map.get(REFERENCES), place) {
        (Some(_), _) if object => Place::Holder,
        (Some(_), _) => Place::Open,
        (None, place) => place,
    };
    let below = if here == Place::Fixed { Place::Fixed } else { Place::Open };
    let mut out = Map::new();
    for (key, value) in map {
        let value = match key.as_str() {
            REFERENCES | EXPECTED => continue,
            // Equal to no default, and yaml-language-server 1.25 fails to complete with it.
            "default" if value.is_null() => continue,
            "properties" | "patternProperties" => match value.as_object() {
                Some(all) => all
                    .iter()
                    .map(|(name, schema)| (name.clone(), loosened(schema, below)))
                    .collect::<Map<_, _>>()
                    .into(),
                None => value.clone(),
            },
            "items" | "additionalProperties" => loosened(value, below),
            // The parts of a union's branches are open; the branches themselves are wrapped as one.
            "anyOf" | "oneOf" => {
                let inner = if below == Place::Open { Place::Holder } else { Place::Fixed };
                value.as_array().into_iter().flatten().map(|branch| loosened(branch, inner)).collect::<Vec<_>>().into()
            }
            "propertyNames" => loosened(value, Place::Fixed),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    if here == Place::Open && !takes_any_text(&out) { with_reference(out) } else { Value::Object(out) }
}

/// Whether the schema accepts every text.
fn takes_any_text(schema: &Map<String, Value>) -> bool {
    let text = match schema.get("type") {
        Some(Value::String(kind)) => kind == "string",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "string"),
        _ => true,
    };
    let bounds = ["enum", "const", "pattern", "minLength", "maxLength", "anyOf", "oneOf", "not", "allOf", "$ref"];
    text && bounds.iter().all(|bound| !schema.contains_key(*bound))
}

/// `schema`, or a text that contains a reference. Titles, descriptions and defaults stay outside.
fn with_reference(mut schema: Map<String, Value>) -> Value {
    let mut out = Map::new();
    for shown in ["title", "description", "default"] {
        if let Some(value) = schema.shift_remove(shown) {
            out.insert(shown.to_owned(), value);
        }
    }
    let reference = json!({"type": "string", "pattern": r"\$\{"});
    out.insert("anyOf".to_owned(), json!([Value::Object(schema), reference]));
    Value::Object(out)
}

/// All files of `schemas/` except those of single stages, as name to text: one
/// `experiment.NAME.schema.json` for each `NAME.yaml` in `pipelines`.
///
/// # Errors
/// All errors in the pipelines.
pub fn files(pipelines: &Path, builtin: &[(&str, &str)]) -> Result<BTreeMap<String, String>, Diagnostics> {
    let mut files = BTreeMap::new();
    let mut put = |name: String, strict: &Value| {
        let mut schema = authoring(strict);
        if let Some(map) = schema.as_object_mut() {
            map.shift_remove("$schema");
            map.shift_insert(0, "$schema".to_owned(), DIALECT.into());
        }
        // Serializing a JSON value does not fail.
        files.insert(name, serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n");
    };
    put("experiment.schema.json".into(), &experiment());
    put("pipeline.schema.json".into(), &pipeline());
    put("stage.schema.json".into(), &stage());
    let cannot = |e: std::io::Error| {
        let message = format!("cannot read the folder `{}`: {e}", pipelines.display());
        Diagnostics::new(vec![Diagnostic::plain("spec::unreadable", message)])
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(pipelines).map_err(cannot)? {
        paths.push(entry.map_err(cannot)?.path());
    }
    paths.sort();
    let absolute = std::path::absolute(pipelines).map_err(cannot)?;
    let project = absolute.parent().unwrap_or(&absolute);
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "yaml")) {
        let file = absolute.join(path.file_name().unwrap_or_default());
        let shown = file.strip_prefix(project).unwrap_or(&file);
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        put(format!("experiment.{name}.schema.json"), &experiment_for(shown, project, builtin)?);
    }
    Ok(files)
}
