//! What a wasm module without the standard library must bring itself: an allocator, and an end for panics.

use core::panic::PanicInfo;

use dlmalloc::GlobalDlmalloc;
use wasm_bindgen::prelude::*;

#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn complain(message: &str);
}

/// A panic is a bug: say where on the console, then trap, which `js/error.ts` turns into an error of kind `bug`.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    complain(&alloc::format!("mwa: {info}"));
    core::arch::wasm32::unreachable()
}
