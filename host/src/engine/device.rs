//! Which device computes a merge, as the user names it.

use core::str::FromStr;

use mwa::{Error, ErrorKind};
use serde::Serialize;

/// What computes the sums; the bytes are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where it will be faster by what was measured, else the CPU; the CPU too when the GPU fails.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// GPUs, or an error.
    Gpu(Gpus),
    /// The WebAssembly component in a sandbox, on one thread: for files that are not trusted.
    Wasm,
}

/// A GPU that was found, and what a look at all its kernels gave.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The device's name and the interface it is reached through.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `unknown`.
    pub kind: String,
    /// The driver and its version.
    pub driver: String,
    /// Why it is refused; `None` when it gives the same bytes as the CPU.
    pub refused: Option<String>,
}

/// Some of the GPUs that [`crate::engine::gpu::devices`] lists, by their places there; by default the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// Bit n stands for place n.
    places: u64,
}

impl Default for Gpus {
    fn default() -> Self {
        Self { places: 1 }
    }
}

impl Gpus {
    /// These places; `None` when there is none, or one beyond 63.
    #[must_use]
    pub fn new(places: &[u32]) -> Option<Self> {
        let bits = places.iter().try_fold(0, |bits, &place| Some(bits | 1u64.checked_shl(place)?))?;
        (bits != 0).then_some(Self { places: bits })
    }

    /// The places, in order.
    pub fn places(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |place| self.places >> place & 1 == 1)
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> mwa::Result<Self> {
        let wrong =
            |detail: String| Error::new(ErrorKind::Usage, detail).help("use auto, cpu, gpu, gpu:0,1 or wasm");
        let places = match text.split_once(':') {
            None if text == "auto" => return Ok(Self::Auto),
            None if text == "cpu" => return Ok(Self::Cpu),
            None if text == "wasm" => return Ok(Self::Wasm),
            None if text == "gpu" => return Ok(Self::Gpu(Gpus::default())),
            Some(("gpu", places)) => places,
            _ => return Err(wrong(format!("`{text}` is not a device; use auto, cpu, gpu, gpu:0,1 or wasm"))),
        };
        let places = places.split(',').map(str::parse).collect::<Result<Vec<_>, _>>();
        let gpus = Gpus::new(&places.map_err(|error| wrong(format!("`{text}`: {error}")))?);
        gpus.map(Self::Gpu).ok_or_else(|| wrong(format!("`{text}`: places are 0 to 63")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("gpu".parse::<DeviceChoice>(), "gpu:0".parse());
        assert_eq!("gpu:3,1".parse(), Ok(DeviceChoice::Gpu(Gpus::new(&[1, 3]).unwrap())));
        for wrong in ["", "gpu:", "gpu:64", "gpu:a", "cpu:0", "tpu"] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }
}
