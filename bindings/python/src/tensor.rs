//! Tensors of other libraries, where they lie: NumPy's array interface, and DLPack for everything else.

use core::ffi::c_void;
use core::slice;

use mwa::{AdapterConfig, Dtype, Error, ErrorKind, MergeOptions, Options, Result};
use mwa_host::Machine;
use mwa_host::memory::{InMemory, Input, Tensor};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

use crate::call::{call, exception};

/// A tensor of another library under its name.
type Named<'py> = (String, Bound<'py, PyAny>);

/// An input: its name, its tensors and, if it is an adapter, the text of its `adapter_config.json`.
type Checkpoint<'py> = (String, Vec<Named<'py>>, Option<String>);

/// Merge `inputs`. `allocate(name, dtype, shape)` makes the room for a result, a C-contiguous tensor. Returns the results
/// by name, the config that belongs to them, and what the user should be told.
#[pyfunction]
pub(crate) fn merge_tensors<'py>(
    py: Python<'py>,
    inputs: Vec<Checkpoint<'py>>,
    weights: Vec<f64>,
    options: &str,
    allocate: &Bound<'py, PyAny>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(Bound<'py, PyDict>, Option<String>, Vec<String>)> {
    let raise = |error: Error| exception(py, &error);
    let wanted = Options::parse(options).map_err(raise)?;
    let machine = Machine::new(&wanted).map_err(raise)?;
    let view = |input: &str, (name, tensor): &Named<'py>| {
        View::new(tensor).map_err(|error| raise(error.file(input).tensor(name)))
    };
    let views = inputs
        .iter()
        .map(|(input, tensors, _)| {
            tensors.iter().map(|named| view(input, named)).collect::<PyResult<Vec<_>>>()
        })
        .collect::<PyResult<Vec<_>>>()?;
    let mut given = Vec::new();
    for ((name, tensors, config), views) in inputs.iter().zip(&views) {
        let tensors = tensors.iter().zip(views).map(|((name, _), view)| view.tensor(name));
        let config = config.as_deref().map(AdapterConfig::parse).transpose();
        let config = config.map_err(|error| raise(error.file(format!("{name}'s adapter_config.json"))))?;
        given.push(Input { name: name.clone(), config, tensors: tensors.collect() });
    }
    // nothing tells of a residual here
    let options = MergeOptions { residual: mwa::Measure::Off, ..wanted.merging().map_err(raise)? };
    let mut merge = call(py, None, |progress| InMemory::new(given, &weights, options, machine, progress))?;

    let results = PyDict::new(py);
    let mut rooms = Vec::new();
    for output in merge.outputs() {
        let result = allocate.call1((&output.name, name_of(output.dtype), output.shape.clone()))?;
        rooms.push(View::new(&result).map_err(raise)?);
        results.set_item(&output.name, result)?;
    }
    // SAFETY: nobody else knows these tensors, which were allocated just above.
    let outputs = rooms.iter_mut().map(|room| unsafe { room.bytes_mut() }).collect();
    call(py, progress, |progress| merge.run(outputs, progress))?;
    Ok((results, merge.config(), merge.notes()))
}

/// A tensor's bytes: C-contiguous, little-endian, on the CPU.
struct View {
    dtype: Dtype,
    shape: Vec<u64>,
    /// Invariant: valid for `length` bytes as long as `_owner` lives.
    pointer: *mut u8,
    length: usize,
    _owner: Py<PyAny>,
}

impl View {
    /// Look at a tensor. One that is not contiguous is copied; no other is.
    fn new(tensor: &Bound<'_, PyAny>) -> Result<Self> {
        let has = |name| tensor.hasattr(name).unwrap_or(false);
        if has("__array_interface__") {
            Self::of_array(tensor).map_err(unreadable)?
        } else if has("__dlpack__") {
            Self::of_dlpack(tensor).map_err(unreadable)?
        } else {
            let name = tensor.get_type().name().map_or_else(|_| "object".into(), |name| name.to_string());
            let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
            Err(Error::new(ErrorKind::Input, format!("is {article} {name}, which is not a tensor"))
                .help("give NumPy arrays, PyTorch tensors, or anything else that speaks DLPack"))
        }
    }

    /// The array interface has no name for bfloat16 and float8; the dtypes of `ml_dtypes` have.
    fn of_array(tensor: &Bound<'_, PyAny>) -> PyResult<Result<Self>> {
        // a NumPy scalar's own interface points to memory that is gone; an array's does not
        let array = tensor.py().import("numpy")?.call_method1("asarray", (tensor,))?;
        let interface = array.getattr("__array_interface__")?;
        if !interface.get_item("strides")?.is_none() {
            return Self::of_array(&array.call_method0("copy")?);
        }
        let name: String = array.getattr("dtype")?.getattr("name")?.extract()?;
        let order: String = interface.get_item("typestr")?.extract()?;
        let Some(dtype) = DTYPES.iter().find(|row| row.1 == name).filter(|_| !order.starts_with('>')) else {
            return Ok(Err(unmergeable(&array.getattr("dtype")?)));
        };
        let (pointer, _): (usize, bool) = interface.get_item("data")?.extract()?;
        let shape = interface.get_item("shape")?.extract()?;
        Ok(Ok(Self::at(pointer as *mut u8, dtype.0, shape, array)))
    }

    /// See <https://dmlc.github.io/dlpack/latest/python_spec.html>. The capsule is not consumed: it gives the tensor
    /// back when it is dropped.
    fn of_dlpack(tensor: &Bound<'_, PyAny>) -> PyResult<Result<Self>> {
        if tensor.hasattr("requires_grad")? && tensor.getattr("requires_grad")?.is_truthy()? {
            return Self::of_dlpack(&tensor.call_method0("detach")?);
        }
        let (device, _): (i32, i32) = tensor.call_method0("__dlpack_device__")?.extract()?;
        if device != CPU {
            let device = tensor.getattr("device")?;
            return Ok(Err(Error::new(ErrorKind::Input, format!("lies on {device}, not in main memory"))
                .help("move it first, with tensor.cpu()")));
        }
        let capsule = tensor.call_method0("__dlpack__")?.cast_into::<PyCapsule>()?;
        let pointer = capsule.pointer_checked(Some(c"dltensor"))?;
        // SAFETY: a capsule of this name holds a DLManagedTensor, which begins with a DLTensor.
        let dl = unsafe { pointer.cast::<DLTensor>().as_ref() };
        let rank = usize::try_from(dl.ndim)?;
        let list = |pointer: *const i64| {
            if pointer.is_null() {
                return &[][..];
            }
            // SAFETY: DLPack's shape and strides have `ndim` entries, and live as long as the capsule.
            unsafe { slice::from_raw_parts(pointer, rank) }
        };
        let (shape, strides) = (list(dl.shape), list(dl.strides));
        if !is_contiguous(shape, strides) {
            return Self::of_dlpack(&tensor.call_method0("contiguous")?);
        }
        let code = (dl.dtype.code, dl.dtype.bits);
        let Some(dtype) = DTYPES.iter().find(|row| row.2 == code).filter(|_| dl.dtype.lanes == 1) else {
            return Ok(Err(unmergeable(&tensor.getattr("dtype")?)));
        };
        let shape =
            shape.iter().map(|&length| u64::try_from(length)).collect::<core::result::Result<_, _>>()?;
        let pointer = dl.data.cast::<u8>().wrapping_add(usize::try_from(dl.byte_offset)?);
        Ok(Ok(Self::at(pointer, dtype.0, shape, capsule.into_any())))
    }

    fn at(pointer: *mut u8, dtype: Dtype, shape: Vec<u64>, owner: Bound<'_, PyAny>) -> Self {
        let elements: u64 = shape.iter().product();
        let length = usize::try_from(elements).expect("it is in memory") * (dtype.bitsize() / 8);
        Self { dtype, shape, pointer, length, _owner: owner.unbind() }
    }

    fn tensor(&self, name: &str) -> Tensor<'_> {
        let bytes = if self.length == 0 {
            &[]
        } else {
            // SAFETY: by the invariant. As with NumPy itself, another thread that writes to the tensor meanwhile
            // spoils the result.
            unsafe { slice::from_raw_parts(self.pointer, self.length) }
        };
        Tensor { name: name.to_owned(), dtype: self.dtype, shape: self.shape.clone(), bytes }
    }

    /// # Safety
    /// Nobody else may use the tensor as long as the slice lives.
    unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        if self.length == 0 {
            return &mut [];
        }
        // SAFETY: by the invariant, and by the caller's promise.
        unsafe { slice::from_raw_parts_mut(self.pointer, self.length) }
    }
}

/// Whether rows follow each other without gaps; DLPack leaves strides out when they do.
fn is_contiguous(shape: &[i64], strides: &[i64]) -> bool {
    let mut expected = 1;
    let mut pairs = shape.iter().zip(strides).rev();
    shape.contains(&0)
        || pairs.all(|(&length, &stride)| {
            let fits = length == 1 || stride == expected;
            expected *= length;
            fits
        })
}

#[expect(clippy::needless_pass_by_value, reason = "map_err gives it away")]
fn unreadable(error: PyErr) -> Error {
    Error::new(ErrorKind::Input, format!("cannot be read: {error}"))
}

fn unmergeable(dtype: &Bound<'_, PyAny>) -> Error {
    Error::new(ErrorKind::Dtype, format!("is {dtype}, which safetensors does not know"))
}

fn name_of(dtype: Dtype) -> &'static str {
    DTYPES.iter().find(|row| row.0 == dtype).map_or("", |row| row.1)
}

/// A dtype, its name in NumPy, `ml_dtypes` and PyTorch, and its code and bits in DLPack.
const DTYPES: [(Dtype, &str, (u8, u8)); 19] = [
    (Dtype::BOOL, "bool", (6, 8)),
    (Dtype::U8, "uint8", (1, 8)),
    (Dtype::I8, "int8", (0, 8)),
    (Dtype::F8_E5M2, "float8_e5m2", (12, 8)),
    (Dtype::F8_E4M3, "float8_e4m3fn", (10, 8)),
    (Dtype::F8_E8M0, "float8_e8m0fnu", (14, 8)),
    (Dtype::F8_E4M3FNUZ, "float8_e4m3fnuz", (11, 8)),
    (Dtype::F8_E5M2FNUZ, "float8_e5m2fnuz", (13, 8)),
    (Dtype::I16, "int16", (0, 16)),
    (Dtype::U16, "uint16", (1, 16)),
    (Dtype::F16, "float16", (2, 16)),
    (Dtype::BF16, "bfloat16", (4, 16)),
    (Dtype::I32, "int32", (0, 32)),
    (Dtype::U32, "uint32", (1, 32)),
    (Dtype::F32, "float32", (2, 32)),
    (Dtype::C64, "complex64", (5, 64)),
    (Dtype::F64, "float64", (2, 64)),
    (Dtype::I64, "int64", (0, 64)),
    (Dtype::U64, "uint64", (1, 64)),
];

/// `kDLCPU`.
const CPU: i32 = 1;

/// As in `dlpack.h`.
#[repr(C)]
struct DLTensor {
    data: *mut c_void,
    device: [i32; 2],
    ndim: i32,
    dtype: DLDataType,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

/// As in `dlpack.h`.
#[repr(C)]
struct DLDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}
