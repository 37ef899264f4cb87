/** Values between Node and a page: bytes travel as text. */

const text = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));

const within = (value, each) => {
  if (Array.isArray(value)) return value.map(each);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, it]) => [name, each(it)]));
};

/** Bytes become text, other arrays of numbers plain ones. */
export function pack(value) {
  if (value instanceof Uint8Array) return { base64: text(value) };
  return within(ArrayBuffer.isView(value) ? [...value] : value, pack);
}

/** What was packed; arrays of numbers stay plain. */
export function unpack(value) {
  const base64 = value?.base64;
  return base64 === undefined ? within(value, unpack) : Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}
