//! What a browser does besides: bytes pass between its memory and the device's without a stop in the module's.

use js_sys::Uint8Array;
use mwa::Result;

use crate::layout::{COUNTERS, Layout, MAP_ALIGN};
use crate::slot::Slot;
use crate::{Device, or_failed};

impl Slot {
    /// Put all bytes of operand `k` of a job.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Device`] when the device has failed.
    pub fn write_array(&self, device: &Device, layout: &Layout, k: usize, bytes: &Uint8Array) -> Result<()> {
        let start = layout.start(k);
        let range = start..start + u64::from(bytes.length()).next_multiple_of(MAP_ALIGN);
        // only the view for reading gives the browser's own array; it is mapped for writing all the same
        let view = or_failed(device.name(), self.staging.get_mapped_range(range))?;
        view.as_uint8array().set(bytes, 0);
        Ok(())
    }

    /// A copy of the finished job's result.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Device`] when the device has failed.
    pub fn read_array(&self, device: &Device, layout: &Layout) -> Result<Uint8Array> {
        let len = layout.result_bytes();
        let mapped = COUNTERS..COUNTERS + len.next_multiple_of(MAP_ALIGN);
        let view = or_failed(device.name(), self.readback.get_mapped_range(mapped))?;
        let len = u32::try_from(len).expect("results are mapped, so they fit the address space");
        Ok(view.as_uint8array().slice(0, len))
    }
}
