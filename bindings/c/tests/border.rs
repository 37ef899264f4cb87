//! The border as a C program crosses it, called from Rust: no compiler of C is needed, so that Miri can watch every pointer.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::{ptr, slice};

use mwa_c::*;

/// A safetensors file with one F32 tensor `w`.
fn file(values: [f32; 4]) -> Vec<u8> {
    let head = br#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}     "#;
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend(head);
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// The caller's side: what is read, and what was written.
struct Disk {
    inputs: Vec<Vec<u8>>,
    output: Vec<u8>,
    refuses: bool,
}

unsafe extern "C" fn read(
    user: *mut c_void,
    input: usize,
    offset: u64,
    buffer: *mut u8,
    size: usize,
) -> c_int {
    // SAFETY: the tests give a Disk, and the library a buffer of that size.
    let (disk, buffer) = unsafe { (&*user.cast::<Disk>(), slice::from_raw_parts_mut(buffer, size)) };
    let start = usize::try_from(offset).unwrap();
    buffer.copy_from_slice(&disk.inputs[input][start..start + size]);
    0
}

unsafe extern "C" fn write(user: *mut c_void, offset: u64, bytes: *const u8, size: usize) -> c_int {
    // SAFETY: the tests give a Disk, and the library that many bytes.
    let (disk, bytes) = unsafe { (&mut *user.cast::<Disk>(), slice::from_raw_parts(bytes, size)) };
    let start = usize::try_from(offset).unwrap();
    disk.output.resize(disk.output.len().max(start + size), 0);
    disk.output[start..start + size].copy_from_slice(bytes);
    c_int::from(disk.refuses) * 7
}

/// What an error says; it is given back.
unsafe fn told(error: *mut mwa_error) -> String {
    // SAFETY: the tests give what the library gave.
    unsafe {
        let text = |text: *mut c_char| match text.is_null() {
            true => "–".into(),
            false => CStr::from_ptr(text).to_string_lossy().into_owned(),
        };
        let it = error.as_ref().expect("there is an error");
        let said = [it.name, it.path, it.tensor, it.detail].map(text).join("|");
        mwa_error_free(error);
        said
    }
}

fn inputs(files: &[Vec<u8>]) -> Vec<mwa_input> {
    let names = [c"one", c"two"];
    let each = files.iter().zip(names).map(|(file, name)| mwa_input {
        name: name.as_ptr(),
        head: file.as_ptr(),
        head_size: file.len() - 16,
        file_size: file.len() as u64,
        config: ptr::null(),
    });
    each.collect()
}

#[test]
fn a_plan_is_made_run_told_and_given_back() {
    let files = vec![file([1.0, 2.0, -3.0, 0.0]), file([3.0, 2.0, 5.0, 1.0])];
    let (heads, mut plan) = (inputs(&files), ptr::null_mut());
    let mut disk = Disk { inputs: files.clone(), output: Vec::new(), refuses: false };
    // SAFETY: pointers are what the functions say, for as long as they are used.
    unsafe {
        let mut size = 0;
        assert!(mwa_header_size(files[0].as_ptr(), 8, files[0].len() as u64, &raw mut size).is_null());
        assert_eq!(size, files[0].len() as u64 - 16);
        let options = c"{\"residual\": \"off\"}".as_ptr();
        assert!(mwa_plan_new(heads.as_ptr(), [1.0, 3.0].as_ptr(), 2, options, &raw mut plan).is_null());
        let user = (&raw mut disk).cast();
        assert!(mwa_plan_run(plan, Some(read), Some(write), user).is_null());
        assert_eq!(mwa_plan_file_size(plan), disk.output.len() as u64);
        let mut head = [0; 24];
        let length = mwa_plan_head(plan, head.as_mut_ptr(), head.len());
        assert_eq!(disk.output[..24], head);
        let values = disk.output[length..].as_chunks().0.iter().map(|word| f32::from_le_bytes(*word));
        assert_eq!(values.collect::<Vec<_>>(), [2.5, 2.0, 3.0, 0.75]);

        let mut report = ptr::null_mut();
        assert!(mwa_plan_report(plan, &raw mut report).is_null());
        let length = mwa_text_copy(report, ptr::null_mut(), 0);
        let mut text: Vec<c_char> = vec![1; length + 1];
        assert_eq!(mwa_text_copy(report, text.as_mut_ptr(), text.len()), length);
        let text = CStr::from_ptr(text.as_ptr()).to_str().unwrap();
        assert!(text.contains("\"weight\": 0.75"), "{text}");
        let mut short = [1; 4];
        assert_eq!(mwa_text_copy(report, short.as_mut_ptr(), short.len()), length);
        assert_eq!(short[3], 0, "cut, with its end");
        mwa_text_free(report);
        let mut config = ptr::null_mut();
        assert!(mwa_plan_config(plan, &raw mut config).is_null());
        assert_eq!(mwa_text_copy(config, ptr::null_mut(), 0), 0);
        mwa_text_free(config);

        disk.refuses = true;
        let said = told(mwa_plan_run(plan, Some(read), Some(write), (&raw mut disk).cast()));
        assert_eq!(said, "io|–|–|the write callback returned 7");
        mwa_plan_free(plan);
    }
}

#[test]
fn what_does_not_fit_is_an_error_and_null_is_none() {
    let mut files = vec![file([1.0; 4]), file([1.0; 4])];
    let mut plan = ptr::null_mut();
    // SAFETY: pointers are what the functions say, or NULL.
    unsafe {
        let options = c"{\"penalty\": 1}".as_ptr();
        let heads = inputs(&files);
        let made = mwa_plan_new(heads.as_ptr(), [1.0, 1.0].as_ptr(), 2, options, &raw mut plan);
        assert!(told(made).starts_with("usage|–|–|"));
        let made = mwa_plan_new(ptr::null(), [1.0].as_ptr(), 1, ptr::null(), &raw mut plan);
        assert!(told(made).contains("inputs"));
        let made = mwa_plan_new(heads.as_ptr(), [1.0, f64::NAN].as_ptr(), 2, ptr::null(), &raw mut plan);
        assert!(told(made).starts_with("weights|"));
        assert!(told(mwa_plan_run(ptr::null_mut(), None, None, ptr::null_mut())).contains("plan is NULL"));
        assert!(told(mwa_header_size(ptr::null(), 8, 8, ptr::null_mut())).contains("start"));
        // a head that lies about where its tensor ends
        files[1][63] = b'9';
        let heads = inputs(&files);
        let made = mwa_plan_new(heads.as_ptr(), [1.0, 1.0].as_ptr(), 2, ptr::null(), &raw mut plan);
        assert!(told(made).starts_with("header|two|"));
        assert!(plan.is_null());
        mwa_plan_free(ptr::null_mut());
        mwa_text_free(ptr::null_mut());
        mwa_error_free(ptr::null_mut());
        assert_eq!(mwa_text_copy(ptr::null(), ptr::null_mut(), 0), 0);
        assert_eq!(mwa_plan_file_size(ptr::null()), 0);
    }
}
