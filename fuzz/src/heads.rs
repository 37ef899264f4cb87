//! A head: what mwa takes for safetensors, the format's own reader takes for the same, and it is written as it was read.

use mwa::safetensors::Header;
use safetensors::SafeTensors;

pub(crate) fn check(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes, bytes.len() as u64) else { return };
    let theirs = match SafeTensors::deserialize(bytes) {
        // in what it does not know, it follows no nesting as deep as this
        Err(error) if error.to_string().contains("recursion limit") => return,
        theirs => theirs.expect("the format's own reader takes it too"),
    };
    assert_eq!(header.tensors().len(), theirs.len());
    let mut end = header.data_start();
    for tensor in header.tensors() {
        assert_eq!(tensor.range.start, end, "tensors lie side by side");
        end = tensor.range.end;
        let other = theirs.tensor(&tensor.name).expect("it has the same tensors");
        let shape: Vec<u64> = other.shape().iter().map(|&dim| dim as u64).collect();
        assert_eq!((&tensor.shape, tensor.len()), (&shape, other.data().len() as u64));
    }
    assert_eq!((end, header.file_len()), (bytes.len() as u64, bytes.len() as u64), "and cover the file");
    let written = header.to_bytes();
    let len = written.len() as u64 + bytes.len() as u64 - header.data_start();
    let again = Header::parse(&written, len).expect("what is written can be read");
    let facts = |header: &Header| -> Vec<_> {
        let tensors = header.tensors().iter();
        tensors.map(|tensor| (tensor.name.clone(), tensor.dtype, tensor.shape.clone())).collect()
    };
    assert_eq!(facts(&header), facts(&again));
    assert_eq!(header.metadata().pairs(), again.metadata().pairs());
}
