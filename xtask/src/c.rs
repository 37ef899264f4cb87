//! The C library, laid out as a prefix.

use crate::run::{Result, cargo, copy, root, run, target};

/// `cargo xtask build c`: header, libraries, pkg-config file and CMake package, laid out as a prefix.
pub(crate) fn build() -> Result {
    run(cargo(["build", "--release", "--package", "mwa-c"]))?;
    let prefix = target().join("c");
    let (from, here) = (target().join("release"), root().join("bindings/c"));
    let mut copies = vec![
        (here.join("include/mwa.h"), "include", "mwa.h"),
        (here.join("mwa.pc"), "lib/pkgconfig", "mwa.pc"),
        (here.join("mwa-config.cmake"), "lib/cmake/mwa", "mwa-config.cmake"),
        (here.join("mwa-config-version.cmake"), "lib/cmake/mwa", "mwa-config-version.cmake"),
    ];
    // on Unix a program asks for the name with the ABI's number when it starts, the linker for the one without
    for (library, name) in [
        ("libmwa_c.so", "libmwa.so.0"),
        ("libmwa_c.so", "libmwa.so"),
        ("libmwa_c.dylib", "libmwa.0.dylib"),
        ("libmwa_c.dylib", "libmwa.dylib"),
        ("libmwa_c.a", "libmwa.a"),
        ("mwa_c.dll", "mwa_c.dll"),
        ("mwa_c.dll.lib", "mwa.lib"),
    ] {
        if from.join(library).is_file() {
            copies.push((from.join(library), "lib", name));
        }
    }
    for (file, folder, name) in copies {
        copy(&file, &prefix.join(folder).join(name))?;
    }
    println!("built {}", prefix.display());
    Ok(())
}
