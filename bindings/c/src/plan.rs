//! Merging through the caller's own reading and writing: heads in, a plan, callbacks for the rest.

use core::ffi::{c_char, c_int, c_void};
use core::slice;

use mwa::safetensors::Header;
use mwa::{Error, ErrorKind, Input, Plan, Recipe, Result, Shard, Weights};
use mwa_host::InstructionSet;

use crate::border::{free, give, guarded, list, text, usage};
use crate::mwa_error;

/// One safetensors file, by its head.
#[repr(C)]
pub struct mwa_input {
    /// How errors call it.
    pub name: *const c_char,
    /// Its first bytes, at least as many as `mwa_header_size` says.
    pub head: *const u8,
    /// How many those are.
    pub head_size: usize,
    /// The size of the whole file.
    pub file_size: u64,
}

/// What is wanted of the output; all zeros for the usual.
#[repr(C)]
pub struct mwa_recipe {
    /// Dtype of averaged tensors: "f32", "bf16" or "f16"; "keep" or NULL for the widest of the inputs.
    pub dtype: *const c_char,
    /// Let NaN and infinity through instead of failing.
    pub allow_non_finite: bool,
}

/// A checked merge of files that the caller reads and writes.
pub struct mwa_plan {
    plan: Plan,
    names: Vec<String>,
}

/// Fill `buffer` with `size` bytes of input number `input`, from byte `offset` of its file on. Anything but 0 means that it
/// cannot, and ends the merge with an error of kind "io" that names the number.
pub type mwa_read = Option<
    unsafe extern "C" fn(user: *mut c_void, input: usize, offset: u64, buffer: *mut u8, size: usize) -> c_int,
>;

/// Write `size` bytes to the output, from byte `offset` of the file on. Anything but 0 means that it cannot.
pub type mwa_write =
    Option<unsafe extern "C" fn(user: *mut c_void, offset: u64, bytes: *const u8, size: usize) -> c_int>;

/// Most bytes that are read of one input at a time.
const JOB_BYTES: usize = 256 << 10;

/// How many bytes of a safetensors file its head takes, given at least the first 8 of them (512 let it say what else the
/// file may be) and the size of the whole file.
///
/// # Safety
/// `start` has `start_size` bytes; `size` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_header_size(
    start: *const u8,
    start_size: usize,
    file_size: u64,
    size: *mut u64,
) -> *mut mwa_error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let found = Header::size(unsafe { list(start, start_size, "start") }?, file_size)?;
        if size.is_null() {
            return Err(usage("size is NULL".into()));
        }
        // SAFETY: the caller's promise.
        unsafe { size.write(found) };
        Ok(())
    })
}

/// Check inputs against each other and lay out the output, which has the tensors of the last input. `weights` are one per
/// input and are divided by their sum. `recipe` may be NULL.
///
/// # Safety
/// Pointers are what they are said to be; `inputs` and `weights` have `count` elements; `plan` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_plan_new(
    inputs: *const mwa_input,
    weights: *const f64,
    count: usize,
    recipe: *const mwa_recipe,
    plan: *mut *mut mwa_plan,
) -> *mut mwa_error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (inputs, weights) = unsafe { (list(inputs, count, "inputs")?, list(weights, count, "weights")?) };
        // SAFETY: the caller's promise.
        let inputs = inputs.iter().map(|input| unsafe { read_head(input) }).collect::<Result<Vec<_>>>()?;
        let named: Vec<_> =
            inputs.iter().map(|input| (input.name.as_str(), input.files[0].header.metadata())).collect();
        let metadata = mwa::agree_metadata(&named)?.kept;
        // SAFETY: the caller's promise.
        let recipe = Recipe { metadata, ..unsafe { read_recipe(recipe) }? };
        let made = Plan::new(&inputs, &Weights::explicit(weights)?, &recipe)?;
        let names = inputs.into_iter().map(|input| input.name).collect();
        // SAFETY: the caller's promise.
        unsafe { give(plan, mwa_plan { plan: made, names }) };
        Ok(())
    })
}

/// The size of the output file in bytes.
///
/// # Safety
/// `plan` comes from `mwa_plan_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_plan_file_size(plan: *const mwa_plan) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { plan.as_ref() }.map_or(0, |plan| plan.plan.outputs()[0].header.file_len())
}

/// Copy as much of the output's head as `size` bytes hold, and return its whole size. `mwa_plan_run` writes it too.
///
/// # Safety
/// `plan` comes from `mwa_plan_new`; `buffer` has room for `size` bytes, or is NULL and `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_plan_head(plan: *const mwa_plan, buffer: *mut u8, size: usize) -> usize {
    // SAFETY: the caller's promise.
    let Some(plan) = (unsafe { plan.as_ref() }) else { return 0 };
    let head = plan.plan.outputs()[0].header.to_bytes();
    if !buffer.is_null() {
        let length = head.len().min(size);
        // SAFETY: the caller's promise.
        unsafe { slice::from_raw_parts_mut(buffer, length) }.copy_from_slice(&head[..length]);
    }
    head.len()
}

/// Read, average and write everything, the output from its first byte to its last, in order. Callbacks run on the calling
/// thread; `user` is passed to them. Buffers take 256 KiB per input.
///
/// # Safety
/// `plan` comes from `mwa_plan_new`; the callbacks do what their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_plan_run(
    plan: *const mwa_plan,
    read: mwa_read,
    write: mwa_write,
    user: *mut c_void,
) -> *mut mwa_error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let plan = unsafe { plan.as_ref() }.ok_or_else(|| usage("plan is NULL".into()))?;
        let read = read.ok_or_else(|| usage("read is NULL".into()))?;
        let write = write.ok_or_else(|| usage("write is NULL".into()))?;
        let write = |offset: u64, bytes: &[u8]| {
            // SAFETY: the caller's promise.
            match unsafe { write(user, offset, bytes.as_ptr(), bytes.len()) } {
                0 => Ok(()),
                code => Err(Error::new(ErrorKind::Io, format!("the write callback returned {code}"))),
            }
        };
        write(0, &plan.plan.outputs()[0].header.to_bytes())?;
        let instructions = InstructionSet::widest();
        let (mut buffers, mut out) = (vec![Vec::new(); plan.names.len()], Vec::new());
        for job in plan.plan.jobs(JOB_BYTES) {
            for (range, buffer) in job.reads().zip(&mut buffers) {
                buffer.resize(size(&range.range), 0);
                // SAFETY: the caller's promise.
                let code =
                    unsafe { read(user, range.input, range.range.start, buffer.as_mut_ptr(), buffer.len()) };
                if code != 0 {
                    let detail = format!("the read callback returned {code}");
                    return Err(Error::new(ErrorKind::Io, detail).file(&*plan.names[range.input]));
                }
            }
            let inputs: Vec<_> = buffers[..job.reads().len()].iter().map(Vec::as_slice).collect();
            out.resize(size(&job.write().range), 0);
            instructions.run(&job, &inputs, &mut out)?;
            write(job.write().range.start, &out)?;
        }
        Ok(())
    })
}

/// Give a plan back. NULL is fine.
///
/// # Safety
/// `plan` comes from `mwa_plan_new` and is given back once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_plan_free(plan: *mut mwa_plan) {
    // SAFETY: the caller's promise.
    unsafe { free(plan) }
}

unsafe fn read_head(input: &mwa_input) -> Result<Input> {
    // SAFETY: the caller's promise.
    let (name, head) = unsafe {
        (text(input.name, "an input's name")?, list(input.head, input.head_size, "an input's head")?)
    };
    let header = Header::parse(head, input.file_size).map_err(|error| error.file(name))?;
    Ok(Input { name: name.into(), files: vec![Shard { name: name.into(), header }] })
}

unsafe fn read_recipe(recipe: *const mwa_recipe) -> Result<Recipe> {
    // SAFETY: the caller's promise.
    let Some(recipe) = (unsafe { recipe.as_ref() }) else { return Ok(Recipe::default()) };
    let allow_non_finite = recipe.allow_non_finite;
    if recipe.dtype.is_null() {
        return Ok(Recipe { allow_non_finite, ..Recipe::default() });
    }
    // SAFETY: the caller's promise.
    let options = serde_json::json!({ "dtype": unsafe { text(recipe.dtype, "dtype") }? }).to_string();
    Ok(Recipe { dtype: mwa::Options::parse(&options)?.dtype.0, allow_non_finite, ..Recipe::default() })
}

fn size(range: &core::ops::Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a job is small")
}
