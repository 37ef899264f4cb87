//! Merge files through the component in wasmi, by way of JSON: WIT values have no types of their own here.

use serde_json::{Map, Value as Json, json};
use wasm_component_layer::{
    Component, Engine, Enum, Func, Instance, Linker, List, OptionValue, Record, Store, Value, ValueType,
    Variant,
};

type Runtime = wasmi_runtime_layer::Engine;

/// What the core says is wrong, as `world.wit` has it; or, as a text, what the runtime says.
pub type Failure = Json;

/// A checkpoint of one file, in memory.
pub struct Input {
    pub name: String,
    pub step: Option<u64>,
    pub config: Option<String>,
    pub bytes: Vec<u8>,
}

/// The component's interface `mwa:merge/merger`.
pub struct Merger {
    store: Store<(), Runtime>,
    instance: Instance,
}

impl Merger {
    pub fn new(component: &[u8]) -> Result<Self, Failure> {
        let engine = Engine::new(Runtime::default());
        let mut store = Store::new(&engine, ());
        let component = Component::new(&engine, component).map_err(text)?;
        let instance = Linker::default().instantiate(&mut store, &component).map_err(text)?;
        Ok(Self { store, instance })
    }

    /// Call a function with JSON; a resource among the arguments is given as `first`.
    pub fn call(&mut self, name: &str, first: Option<Value>, arguments: &[Json]) -> Result<Value, Failure> {
        let interface = "mwa:merge/merger@0.1.0".try_into().map_err(text)?;
        let exports = self.instance.exports().instance(&interface).ok_or("it exports no merger")?;
        let function: Func = exports.func(name).ok_or_else(|| json!(name))?;
        let skipped = usize::from(first.is_some());
        let given: Result<Vec<_>, Failure> = function
            .ty()
            .params()
            .iter()
            .skip(skipped)
            .zip(arguments)
            .map(|(ty, json)| lower(ty, json))
            .collect();
        let arguments: Vec<_> = first.into_iter().chain(given?).collect();
        let mut results = [Value::Bool(false)];
        function.call(&mut self.store, &arguments, &mut results).map_err(text)?;
        let [result] = results;
        match &result {
            Value::Result(result) => match &**result {
                Ok(value) => Ok(value.clone().unwrap_or(Value::Bool(true))),
                Err(failure) => Err(failure.as_ref().map_or(Json::Null, lift)),
            },
            _ => Ok(result),
        }
    }

    /// Merge checkpoints; `recipe` has the fields of `world.wit` that are not to be as usual.
    pub fn merge(&mut self, inputs: &[Input], recipe: &Json) -> Result<Vec<u8>, Failure> {
        let mut checkpoints = Vec::new();
        for Input { name, step, config, bytes } in inputs {
            let start = &bytes[..bytes.len().min(512)];
            let size = lift(&self.call("head-size", None, &[json!(start), json!(bytes.len())])?);
            let head = &bytes[..index(&size)];
            let file = json!({ "name": "adapter_model.safetensors", "bytes": head, "length": bytes.len() });
            checkpoints.push(json!({ "name": name, "step": step, "config": config, "files": [file] }));
        }
        let mut whole = json!({ "space": "factors", "strict": false, "residual": false, "dtype": null,
            "allow-non-finite": false, "rewrite": false, "chunk": null });
        whole
            .as_object_mut()
            .into_iter()
            .for_each(|whole| whole.extend(recipe.as_object().cloned().unwrap_or_default()));
        let opened = self.call("[static]merge.open", None, &[json!(checkpoints), whole])?;
        let Value::Own(merge) = opened else { return Err(json!("open gives a merge")) };
        let merge = Value::Borrow(merge.borrow(&mut self.store).map_err(text)?);
        let mut pieces = Vec::new();
        loop {
            let job = lift(&self.call("[method]merge.next", Some(merge.clone()), &[])?);
            if job.is_null() {
                break;
            }
            let chunk = |span: &Json| {
                json!(&inputs[index(&span["input"])].bytes[index(&span["start"])..index(&span["end"])])
            };
            let chunks: Vec<_> = job["reads"].as_array().into_iter().flatten().map(chunk).collect();
            let piece =
                self.call("[method]merge.run", Some(merge.clone()), &[job["number"].clone(), json!(chunks)])?;
            let write = &job["writes"][0];
            if !write.is_null() {
                pieces.push((index(&write["start"]), bytes(&piece)?));
            }
        }
        let outputs = lift(&self.call("[method]merge.outputs", Some(merge), &[])?);
        let mut merged: Vec<u8> = serde_json::from_value(outputs[0]["head"].clone()).map_err(text)?;
        merged.resize(index(&outputs[0]["length"]), 0);
        for (start, piece) in pieces {
            merged[start..start + piece.len()].copy_from_slice(&piece);
        }
        Ok(merged)
    }
}

fn text(error: impl core::fmt::Display) -> Failure {
    json!(format!("{error:#}"))
}

fn index(json: &Json) -> usize {
    json.as_u64().and_then(|at| at.try_into().ok()).unwrap_or(usize::MAX)
}

fn bytes(value: &Value) -> Result<Vec<u8>, Failure> {
    let Value::List(list) = value else { return Err(json!("not a list")) };
    list.typed::<u8>().map(<[u8]>::to_vec).map_err(text)
}

/// JSON as a value of a type: variants are a name, or an object with one field.
fn lower(ty: &ValueType, json: &Json) -> Result<Value, Failure> {
    let wrong = || json!(format!("{json} is no {ty}"));
    let number = || json.as_u64().ok_or_else(wrong);
    Ok(match ty {
        ValueType::Bool => Value::Bool(json.as_bool().ok_or_else(wrong)?),
        ValueType::U8 => Value::U8(number()? as u8),
        ValueType::U32 => Value::U32(number()? as u32),
        ValueType::U64 => Value::U64(number()?),
        ValueType::F64 => Value::F64(match json.as_str() {
            Some(text) => text.parse().map_err(text_of)?,
            None => json.as_f64().ok_or_else(wrong)?,
        }),
        ValueType::String => Value::String(json.as_str().ok_or_else(wrong)?.into()),
        ValueType::List(list) => {
            let items = json.as_array().ok_or_else(wrong)?;
            let items: Result<Vec<_>, _> = items.iter().map(|item| lower(&list.element_ty(), item)).collect();
            Value::List(List::new(list.clone(), items?).map_err(text)?)
        }
        ValueType::Record(record) => {
            let field = |(name, ty): (&str, ValueType)| Ok((name.to_string(), lower(&ty, &json[name])?));
            let fields: Result<Vec<_>, Failure> = record.fields().map(field).collect();
            Value::Record(Record::new(record.clone(), fields?).map_err(text)?)
        }
        ValueType::Option(option) => {
            let some = if json.is_null() { None } else { Some(lower(&option.some_ty(), json)?) };
            Value::Option(OptionValue::new(option.clone(), some).map_err(text)?)
        }
        ValueType::Enum(cases) => {
            let at = cases.cases().position(|case| Some(case) == json.as_str()).ok_or_else(wrong)?;
            Value::Enum(Enum::new(cases.clone(), at).map_err(text)?)
        }
        ValueType::Variant(variant) => {
            let (name, inner) = match json {
                Json::String(name) => (name.as_str(), &Json::Null),
                Json::Object(one) => {
                    one.iter().next().map(|(name, inner)| (name.as_str(), inner)).ok_or_else(wrong)?
                }
                _ => return Err(wrong()),
            };
            let at = variant.cases().iter().position(|case| case.name() == name).ok_or_else(wrong)?;
            let inner = variant.cases()[at].ty().map(|ty| lower(&ty, inner)).transpose()?;
            Value::Variant(Variant::new(variant.clone(), at, inner).map_err(text)?)
        }
        _ => return Err(wrong()),
    })
}

fn text_of(error: core::num::ParseFloatError) -> Failure {
    text(error)
}

/// A value as JSON.
pub fn lift(value: &Value) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::U8(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::String(value) => json!(&**value),
        Value::List(list) => match list.typed::<u8>() {
            Ok(bytes) => json!(bytes),
            Err(_) => list.iter().map(|item| lift(&item)).collect(),
        },
        Value::Record(record) => Json::Object(
            record.fields().map(|(name, value)| (name.to_string(), lift(&value))).collect::<Map<_, _>>(),
        ),
        Value::Option(option) => option.as_ref().map_or(Json::Null, lift),
        Value::Tuple(tuple) => tuple.iter().map(lift).collect(),
        _ => Json::Null,
    }
}
