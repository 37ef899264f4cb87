//! Small adapters and the bytes of their files, made without the code under test.

use serde_json::{Map, Value, json};

/// A LoRA config of rank 2, as PEFT writes it, less what does not matter here.
pub(crate) const CONFIG: &str = r#"{
  "base_model_name_or_path": "example/tiny",
  "init_lora_weights": true,
  "lora_alpha": 4,
  "peft_type": "LORA",
  "r": 2,
  "target_modules": ["q", "v"],
  "use_rslora": false
}"#;

pub(crate) const A: &str = "base_model.model.q.lora_A.weight";
pub(crate) const B: &str = "base_model.model.q.lora_B.weight";

/// A tensor and its bytes.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { name: name.into(), dtype: "F32", shape: shape.into(), data }
}

pub(crate) fn i64s(name: &str, values: &[i64]) -> Tensor {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { name: name.into(), dtype: "I64", shape: vec![values.len()], data }
}

/// One pair of factors of rank 2: A `[2, 3]` points the same way for every small `x`, B `[4, 2]` is `x` throughout.
pub(crate) fn lora(x: f32) -> Vec<Tensor> {
    let a: Vec<_> = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0].iter().map(|value| value + x).collect();
    vec![f32s(A, &[2, 3], &a), f32s(B, &[4, 2], &[x; 8])]
}

/// The bytes of a safetensors file.
pub(crate) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend(&tensor.data);
        let entry =
            json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()] });
        header.insert(tensor.name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// The bytes of a file with any text as its header.
pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The values of an F32 tensor in a safetensors file.
pub(crate) fn values(file: &[u8], tensor: &str) -> Vec<f32> {
    let bytes = of(file, tensor, "F32");
    bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// Those of one of bytes.
pub(crate) fn bytes<'a>(file: &'a [u8], tensor: &str) -> &'a [u8] {
    of(file, tensor, "U8")
}

fn of<'a>(file: &'a [u8], tensor: &str, dtype: &str) -> &'a [u8] {
    let (len, rest) = file.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*len)).unwrap());
    let header: Value = serde_json::from_slice(header).unwrap();
    let entry = &header[tensor];
    assert_eq!(entry["dtype"], dtype, "{tensor} in {header}");
    let offset = |i: usize| usize::try_from(entry["data_offsets"][i].as_u64().unwrap()).unwrap();
    &data[offset(0)..offset(1)]
}
