//! Take the component of `--device wasm` into the program, where a release names its file by `MWA_COMPONENT`.

fn main() {
    println!("cargo::rerun-if-env-changed=MWA_COMPONENT");
    println!("cargo::rustc-check-cfg=cfg(has_component)");
    if let Some(component) = std::env::var_os("MWA_COMPONENT").filter(|path| !path.is_empty()) {
        println!("cargo::rerun-if-changed={}", component.display());
        println!("cargo::rustc-cfg=has_component");
    }
}
