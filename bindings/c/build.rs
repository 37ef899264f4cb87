//! Give the shared library the name that programs look for when they start: it changes with the ABI.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let abi = env!("CARGO_PKG_VERSION_MAJOR");
    let name = match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("windows") => return,
        Ok("macos" | "ios") => format!("-install_name,@rpath/libmwa.{abi}.dylib"),
        _ => format!("-soname,libmwa.so.{abi}"),
    };
    println!("cargo::rustc-cdylib-link-arg=-Wl,{name}");
}
