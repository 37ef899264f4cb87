/** Synthetic files of any size, which no disk need hold. */

/** Two files of `size` bytes of zeros that end in a number of their own. */
export function huge(size, hear = () => {}) {
  const zeros = new Uint8Array(4 << 20);
  return [1, 2].map((value) => {
    const filler = size - 4;
    const header = new TextEncoder().encode(JSON.stringify({
      filler: { dtype: "F32", shape: [filler / 4], data_offsets: [0, filler] },
      last: { dtype: "F32", shape: [1], data_offsets: [filler, filler + 4] },
    }).padEnd(256));
    const head = new Uint8Array(8 + header.length);
    new DataView(head.buffer).setBigUint64(0, BigInt(header.length), true);
    head.set(header, 8);
    return {
      name: `${"xab"[value]}.safetensors`,
      size: head.length + size,
      async read(offset, length) {
        hear(length);
        const at = head.length + filler - offset;
        const isLast = at >= 0 && at + 4 <= length;
        // zeros need no memory of their own, unless they are sent away
        if (offset >= head.length && !isLast && size > 2 ** 32) return zeros.subarray(0, length);
        const bytes = new Uint8Array(length);
        if (offset < head.length) bytes.set(head.subarray(offset, offset + length));
        if (isLast) new DataView(bytes.buffer).setFloat32(at, value, true);
        return bytes;
      },
    };
  });
}
