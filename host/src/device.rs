//! What computes, as a user says it.

use core::str::FromStr;

use mwa::{Error, ErrorKind, Result};

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
}

/// Some of the GPUs that [`crate::gpu::devices`] lists, by their places there; by default the first.
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

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(ErrorKind::Usage, format!("`{text}` is no device; write auto, cpu, gpu, or gpu:0,1"))
                .help("`mwa devices` lists the GPUs")
        };
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "gpu" => Ok(Self::Gpu(Gpus::default())),
            Some(("gpu", places)) => {
                let places: core::result::Result<Vec<_>, _> = places.split(',').map(str::parse).collect();
                Gpus::new(&places.map_err(|_| wrong())?).map(Self::Gpu).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named() {
        let parse = |text: &str| text.parse::<DeviceChoice>();
        assert_eq!(parse("auto"), Ok(DeviceChoice::Auto));
        assert_eq!(parse("gpu"), parse("gpu:0"));
        assert_eq!(parse("gpu:3,1"), Ok(DeviceChoice::Gpu(Gpus::new(&[1, 3]).unwrap())));
        for text in ["", "gpu:", "gpu:64", "gpu:a", "cpu:0", "tpu"] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains("write auto, cpu, gpu, or gpu:0,1"), "{error}");
        }
    }
}
