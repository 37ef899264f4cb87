//! A GPU for the tests: the machine's own, or on Debian one that Mesa plays on the CPU.

use std::path::Path;

use crate::target::install;

/// Where a Linux system lists its Vulkan drivers.
const DRIVERS: [&str; 2] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// Install a Vulkan driver where there is none; if that cannot be, the tests say so and skip what needs it.
pub(crate) fn provide() {
    let has_driver =
        |folder: &str| Path::new(folder).read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if !cfg!(target_os = "linux") || DRIVERS.into_iter().any(has_driver) {
        return;
    }
    if let Err(why) = install(&["mesa-vulkan-drivers", "libvulkan1"]) {
        println!("no GPU: {why}");
    }
}
