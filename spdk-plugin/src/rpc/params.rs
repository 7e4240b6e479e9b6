//! From a request's JSON to a method's parameters, with errors that name the field.

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::{Map, Value};

use super::error::RpcError;
use crate::json::short;

/// Reads `params` as a `T`. Absent parameters are those of an empty object; a field that `T` does not
/// know is an error, also where `T` does not deny it.
pub(crate) fn parse<T: DeserializeOwned>(params: Value) -> Result<T, RpcError> {
    let params = if params.is_null() { Value::Object(Map::new()) } else { params };
    let mut unknown = None;
    let mut track = serde_path_to_error::Track::new();
    let parsed = {
        let de = serde_path_to_error::Deserializer::new(params, &mut track);
        serde_ignored::deserialize(de, |path| {
            unknown.get_or_insert_with(|| place(&path));
        })
    };
    let invalid = |path: &str, what: &str| {
        let path = match path {
            "." => "params".into(),
            path if path.starts_with('[') => format!("params{}", short(path)),
            path => format!("params.{}", short(path)),
        };
        Err(RpcError::invalid_params(format!("{path}: {what}")))
    };
    match parsed {
        Err(error) => {
            let path = track.path().to_string();
            let (field, what) = explain(&error.to_string());
            match field {
                Some(field) if path == "." => invalid(&field, &what),
                Some(field) => invalid(&format!("{path}.{field}"), &what),
                None => invalid(&path, &what),
            }
        }
        Ok(value) => match unknown {
            Some(path) => invalid(&path, "unknown field"),
            None => Ok(value),
        },
    }
}

/// The path as a caller writes it, without what only the Rust types have in between.
fn place(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", place(parent)),
        Path::Map { parent: Path::Root, key } => key.clone(),
        Path::Map { parent, key } => format!("{}.{key}", place(parent)),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => place(parent),
    }
}

/// Says serde's sentence the way a caller reads it, and which field it is about if it tells.
fn explain(message: &str) -> (Option<String>, String) {
    let field = |prefix: &str| {
        let rest = message.strip_prefix(prefix)?.strip_prefix('`')?;
        Some(rest.split('`').next()?.to_owned())
    };
    if let Some(name) = field("missing field ") {
        return (Some(name), "missing".into());
    }
    if let Some(name) = field("unknown field ") {
        return (Some(short(&name)), "unknown field".into());
    }
    for kind in ["invalid type: ", "invalid value: "] {
        if let Some((got, expected)) =
            message.strip_prefix(kind).and_then(|rest| rest.rsplit_once(", expected "))
        {
            return (None, format!("expected {expected}, got {}", short(got)));
        }
    }
    (None, short(message))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::{Value, parse};

    #[derive(Debug, Deserialize, PartialEq)]
    struct Create {
        name: String,
        num_blocks: u64,
        #[serde(default)]
        limits: Option<Limits>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Limits {
        iops: u32,
    }

    #[track_caller]
    fn refused(params: Value, message: &str) {
        let error = parse::<Create>(params).unwrap_err();
        assert_eq!((error.code(), error.message()), (-32602, message));
    }

    #[test]
    fn errors_name_the_field() {
        refused(
            json!({"name": "a", "num_blocks": "x"}),
            r#"params.num_blocks: expected u64, got string "x""#,
        );
        refused(
            json!({"name": "a", "num_blocks": -1}),
            "params.num_blocks: expected u64, got integer `-1`",
        );
        refused(json!({"name": "a"}), "params.num_blocks: missing");
        refused(Value::Null, "params.name: missing");
        refused(json!({"name": "a", "num_blocks": 1, "size": 2}), "params.size: unknown field");
        refused(
            json!({"name": "a", "num_blocks": 1, "limits": {"iops": 1, "x": 1}}),
            "params.limits.x: unknown field",
        );
        refused(json!({"name": "a", "num_blocks": 1, "limits": {}}), "params.limits.iops: missing");
        refused(json!([1, 2, 3]), "params[0]: expected a string, got integer `1`");
    }

    #[test]
    fn the_callers_text_is_cut() {
        let error =
            parse::<Create>(json!({"name": "a", "num_blocks": "x".repeat(1 << 20)})).unwrap_err();
        assert!(error.message().len() < 400, "{}", error.message().len());
    }

    #[test]
    fn good_ones_pass() {
        let create = parse::<Create>(json!({"name": "a", "num_blocks": 1u64 << 63})).unwrap();
        assert_eq!(create, Create { name: "a".into(), num_blocks: 1 << 63, limits: None });
    }
}
