//! Merging through the caller's own reading and writing: heads in, a plan, callbacks for the rest.

use core::ffi::{c_char, c_int, c_void};
use core::slice;

use mwa::merge::{Bytes, Chosen, Cut, Findings, Merge, MergeOptions, Next};
use mwa::safetensors::Header;
use mwa::{AdapterConfig, Error, ErrorKind, Input, Read, Result, Shard};
use mwa_host::{InstructionSet, resize};

use crate::border::{free, give, given_of, guarded, list, text, usage};
use crate::{mwa_error, mwa_text};

/// One checkpoint: a safetensors file, by its head.
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
    /// The text of its adapter_config.json; NULL for a whole model, or a file that has none.
    pub config: *const c_char,
}

/// A checked merge of files that the caller reads and writes.
pub struct mwa_plan {
    chosen: Chosen,
    options: MergeOptions,
    /// The last one that was run, or one that was not.
    merge: Merge,
}

/// Fill `buffer` with `size` bytes of input number `input`, from byte `offset` of its file on. Anything but 0 means that it
/// cannot, and ends the merge with an error of kind "io" that names the number.
pub type mwa_read = Option<
    unsafe extern "C" fn(user: *mut c_void, input: usize, offset: u64, buffer: *mut u8, size: usize) -> c_int,
>;

/// Write `size` bytes to the output, from byte `offset` of the file on. Anything but 0 means that it cannot.
pub type mwa_write =
    Option<unsafe extern "C" fn(user: *mut c_void, offset: u64, bytes: *const u8, size: usize) -> c_int>;

/// The options that say how the inputs of a plan are merged; what chooses and weighs them, and one that parts the output, does not.
const PLANNED: [&str; 11] = [
    "dtype",
    "method",
    "outliers",
    "space",
    "rank",
    "energy",
    "strict",
    "residual",
    "allow_cross_run",
    "allow_non_finite",
    "rewrite",
];

/// Most bytes that a residual reads at once: they stay in a second-level cache.
const WINDOW: usize = 2 << 20;

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

/// Check inputs against each other, oldest first, and lay out the output, which has the tensors of the last. `weights` are one
/// per input and are divided by their sum. `options` is a JSON object with the options of `mwa merge` that say how is merged
/// (dtype, method, outliers, space, rank, energy, strict, residual, allow_cross_run, allow_non_finite, rewrite), or NULL; any other
/// is refused.
///
/// # Safety
/// Pointers are what they are said to be; `inputs` and `weights` have `count` elements; `plan` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_plan_new(
    inputs: *const mwa_input,
    weights: *const f64,
    count: usize,
    options: *const c_char,
    plan: *mut *mut mwa_plan,
) -> *mut mwa_error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (read, weights) = unsafe { (list(inputs, count, "inputs")?, list(weights, count, "weights")?) };
        // SAFETY: the caller's promise.
        let options = unsafe { given_of(options, &PLANNED) }?.merging()?;
        let (mut inputs, mut configs) = (Vec::new(), Vec::new());
        for input in read {
            // SAFETY: the caller's promise.
            let (input, config) = unsafe { read_head(input) }?;
            inputs.push(input);
            configs.push(config);
        }
        let chosen = Chosen::explicit(inputs, configs, weights)?;
        let merge = Merge::new(chosen.clone(), options, Cut::default())?;
        // SAFETY: the caller's promise.
        unsafe { give(plan, mwa_plan { chosen, options, merge }) };
        Ok(())
    })
}

/// The size of the output file in bytes; 0 where ranks are found by energy and the plan was not run yet.
///
/// # Safety
/// `plan` comes from `mwa_plan_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_plan_file_size(plan: *const mwa_plan) -> u64 {
    // SAFETY: the caller's promise.
    let outputs = unsafe { plan.as_ref() }.map_or(&[][..], |plan| plan.merge.outputs());
    outputs.first().map_or(0, |output| output.header.file_len())
}

/// Copy as much of the output's head as `size` bytes hold, and return its whole size. `mwa_plan_run` writes it too. There is
/// none where one input alone has weight, whose file is copied as it is, nor before ranks by energy are found.
///
/// # Safety
/// `plan` comes from `mwa_plan_new`; `buffer` has room for `size` bytes, or is NULL and `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_plan_head(plan: *const mwa_plan, buffer: *mut u8, size: usize) -> usize {
    // SAFETY: the caller's promise.
    let plan = unsafe { plan.as_ref() }.filter(|plan| !plan.merge.outputs().is_empty());
    let Some(plan) = plan else { return 0 };
    let head = plan.merge.head(0);
    if !buffer.is_null() {
        let length = head.len().min(size);
        // SAFETY: the caller's promise.
        unsafe { slice::from_raw_parts_mut(buffer, length) }.copy_from_slice(&head[..length]);
    }
    head.len()
}

/// Read, compare, average and write everything. In factor space the output is written from its first byte to its last, in order;
/// in product space modules come after the other tensors. Callbacks run on the calling thread; `user` is passed to them.
/// Buffers take 256 KiB per input, in product space all factors of a module.
///
/// # Safety
/// `plan` comes from `mwa_plan_new`; the callbacks do what their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_plan_run(
    plan: *mut mwa_plan,
    read: mwa_read,
    write: mwa_write,
    user: *mut c_void,
) -> *mut mwa_error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let plan = unsafe { plan.as_mut() }.ok_or_else(|| usage("plan is NULL".into()))?;
        let read = read.ok_or_else(|| usage("read is NULL".into()))?;
        let write = write.ok_or_else(|| usage("write is NULL".into()))?;
        plan.merge = Merge::new(plan.chosen.clone(), plan.options, Cut::default())?;
        let names = &plan.chosen.inputs;
        let read = |from: &Read, buffer: &mut [u8]| {
            // SAFETY: the caller's promise.
            match unsafe { read(user, from.input, from.range.start, buffer.as_mut_ptr(), buffer.len()) } {
                0 => Ok(()),
                code => Err(Error::new(ErrorKind::Io, format!("the read callback returned {code}"))
                    .file(&*names[from.input].name)),
            }
        };
        let write = |offset: u64, bytes: &[u8]| {
            // SAFETY: the caller's promise.
            match unsafe { write(user, offset, bytes.as_ptr(), bytes.len()) } {
                0 => Ok(()),
                code => Err(Error::new(ErrorKind::Io, format!("the write callback returned {code}"))),
            }
        };
        run(&mut plan.merge, read, write)
    })
}

/// What `mwa merge --json` would print of the last run, without hashes: weights, notes, how far the result is off.
///
/// # Safety
/// `plan` comes from `mwa_plan_new`; `report` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_plan_report(
    plan: *const mwa_plan,
    report: *mut *mut mwa_text,
) -> *mut mwa_error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let plan = unsafe { plan.as_ref() }.ok_or_else(|| usage("plan is NULL".into()))?;
        // SAFETY: the caller's promise.
        unsafe { give(report, mwa_text(plan.merge.preview().to_json())) };
        Ok(())
    })
}

/// The adapter_config.json that belongs beside the output: in product space ranks and scales are others than the inputs'. An
/// empty text where the inputs have none.
///
/// # Safety
/// `plan` comes from `mwa_plan_new`; `config` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_plan_config(
    plan: *const mwa_plan,
    config: *mut *mut mwa_text,
) -> *mut mwa_error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let plan = unsafe { plan.as_ref() }.ok_or_else(|| usage("plan is NULL".into()))?;
        let text = plan.merge.texts().into_iter().find(|(name, _)| name == "adapter_config.json");
        // SAFETY: the caller's promise.
        unsafe { give(config, mwa_text(text.map_or_else(String::new, |(_, text)| text))) };
        Ok(())
    })
}

/// All jobs, one after the other.
fn run(
    merge: &mut Merge,
    mut read: impl FnMut(&Read, &mut [u8]) -> Result<()>,
    write: impl Fn(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let instructions = InstructionSet::widest();
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    let mut is_begun = false;
    while let Next::Jobs(numbers) = merge.next()? {
        let mut findings = Findings::default();
        for number in numbers {
            let job = merge.job(number);
            if !is_begun && job.writes().len() > 0 {
                write(0, &merge.head(0))?;
                is_begun = true;
            }
            outputs.resize_with(job.writes().len(), Vec::new);
            for (room, to) in outputs.iter_mut().zip(job.writes()) {
                resize(room, size(&to.range))?;
            }
            let mut rooms: Vec<_> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            let found = if job.is_windowed() {
                instructions.run(&job, Bytes::Windows(WINDOW, &mut read), &mut rooms)?
            } else {
                inputs.resize_with(job.reads().len(), Vec::new);
                for (from, buffer) in job.reads().zip(&mut inputs) {
                    resize(buffer, size(&from.range))?;
                    read(&from, buffer)?;
                }
                let whole: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
                instructions.run(&job, Bytes::Whole(&whole), &mut rooms)?
            };
            for (to, bytes) in job.writes().zip(&outputs) {
                write(to.range.start, bytes)?;
            }
            findings.add(number, found);
        }
        merge.take(findings)?;
    }
    if is_begun { Ok(()) } else { write(0, &merge.head(0)) }
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

unsafe fn read_head(input: &mwa_input) -> Result<(Input, Option<AdapterConfig>)> {
    // SAFETY: the caller's promise.
    let (name, head) = unsafe {
        (text(input.name, "an input's name")?, list(input.head, input.head_size, "an input's head")?)
    };
    let at = |error: Error| error.file(name);
    let header = Header::parse(head, input.file_size).map_err(at)?;
    let config = if input.config.is_null() {
        None
    } else {
        // SAFETY: the caller's promise.
        let parsed = AdapterConfig::parse(unsafe { text(input.config, "an input's config") }?);
        Some(parsed.map_err(|error| error.file(format!("{name}'s adapter_config.json")))?)
    };
    let files = vec![Shard { name: "adapter_model.safetensors".into(), header }];
    Ok((Input { name: name.into(), files }, config))
}

fn size(range: &core::ops::Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a job fits into memory")
}
