// Twin of element.rs: words to f32 and back, and what is counted; change both or neither. A pipeline is made of this file and a
// kernel's gpu.wgsl, which has the entry point and makes results of what load() gives.
//
// One invocation makes eight elements: loads are 16 bytes wide for all but the 8-bit dtypes. WGSL promises neither
// subnormals nor NaN, so both are made here, by integers or by floats that have no room to differ. Elements beyond
// `job.elements` are made like the others but not counted; the host does not take them.

struct Operand {
    start: u32,   // where its elements begin in `inputs`, in units of 16 bytes
    weight: f32,
    dtype: u32,   // read only if INPUT is MIXED
    padding: u32,
}

struct Job {
    zero: u32,    // 0, which the compiler cannot know
    elements: u32,
    operands: u32,
    cut: u32,     // what the kernel of middle values leaves out on each side
    operand: array<Operand, MAX_OPERANDS>,
}

struct Out {
    non_finite: atomic<u32>,
    underflowed: atomic<u32>,
    workgroups: atomic<u32>,   // how many have finished: proof that the kernel ran
    padding: u32,
    words: array<vec4<u32>>,
}

@group(0) @binding(0) var<uniform>             job:    Job;
@group(0) @binding(1) var<storage, read>       inputs: array<vec4<u32>>;   // [k][i], each operand from its `start`
@group(0) @binding(2) var<storage, read_write> out:    Out;                // [i]

const MAX_OPERANDS = 256u;        // MAX_OPERANDS in mod.rs
const WORKGROUP = 256u;           // WORKGROUP
const F32 = 0u;                   // wgsl_dtype()
const BF16 = 1u;
const F16 = 2u;
const F8E4M3 = 3u;
const F8E5M2 = 4u;
const MIXED = 5u;

override INPUT: u32 = MIXED;      // the dtype of all operands, known when the pipeline is made
override OUTPUT: u32 = F32;
override UNPACKS: bool = true;    // unpack2x16float() keeps subnormals here, which WGSL does not promise

const SIGN = 0x80000000u;
const EXPONENT = 0x7f800000u;
const MAGNITUDE = 0x7fffffffu;

// Eight elements as f32; as bits, because these cannot be changed on the way.
struct Eight { low: vec4<u32>, high: vec4<u32> }

// Eight elements of an operand as they lie in memory: in all words, in four, or in two.
struct Packed { low: vec4<u32>, high: vec4<u32> }

var<workgroup> non_finite: atomic<u32>;
var<workgroup> underflowed: atomic<u32>;

// The end of an invocation, and of its workgroup: add up what was counted.
fn publish(local: u32) {
    workgroupBarrier();
    if local == 0u {
        let counts = vec2(atomicLoad(&non_finite), atomicLoad(&underflowed));
        if counts.x > 0u { atomicAdd(&out.non_finite, counts.x); }
        if counts.y > 0u { atomicAdd(&out.underflowed, counts.y); }
        atomicAdd(&out.workgroups, 1u);
    }
}

// Elements 8i … 8i + 7 of an operand, widened at once where the operands' dtypes differ.
fn load(operand: Operand, i: u32) -> Packed {
    if INPUT != MIXED { return load_as(INPUT, operand.start, i); }
    let value = values(operand.dtype, load_as(operand.dtype, operand.start, i));
    return Packed(value.low, value.high);
}

fn load_as(kind: u32, start: u32, i: u32) -> Packed {
    switch kind {
        case F32: { return Packed(inputs[start + 2u * i], inputs[start + 2u * i + 1u]); }
        case BF16, F16: { return Packed(inputs[start + i], vec4(0u)); }
        default: {
            let words = inputs[start + i / 2u];
            return Packed(vec4(select(words.xy, words.zw, (i & 1u) == 1u), 0u, 0u), vec4(0u));
        }
    }
}

// The dtype of what load() gives.
fn dtype() -> u32 {
    if INPUT == MIXED { return F32; }
    return INPUT;
}

// Elements to f32, exactly.
fn values(kind: u32, packed: Packed) -> Eight {
    let words = packed.low;
    switch kind {
        case F32: { return Eight(words, packed.high); }
        case BF16: { return Eight(halves(words.xy) << vec4(16u), halves(words.zw) << vec4(16u)); }
        case F16: { return Eight(f16(words.xy), f16(words.zw)); }
        case F8E4M3: { return Eight(f8e4m3(words.x), f8e4m3(words.y)); }
        default: { return Eight(f8e5m2(words.x), f8e5m2(words.y)); }
    }
}

fn f16(words: vec2<u32>) -> vec4<u32> {
    if UNPACKS { return bitcast<vec4<u32>>(vec4(unpack2x16float(words.x), unpack2x16float(words.y))); }
    return widen(halves(words));
}

// The upper half of an f16.
fn f8e5m2(word: u32) -> vec4<u32> {
    let bytes = quarters(word) << vec4(8u);
    return f16(bytes.xz | (bytes.yw << vec2(16u)));
}

// 2⁸ times the f16 with its bits, one place further up; 480 would be next after its largest value, and is NaN.
fn f8e4m3(word: u32) -> vec4<u32> {
    let bytes = quarters(word);
    let bits = ((bytes & vec4(0x80u)) << vec4(8u)) | ((bytes & vec4(0x7fu)) << vec4(7u));
    let value = bitcast<vec4<f32>>(f16(bits.xz | (bits.yw << vec2(16u)))) * 256.0;
    return select(bitcast<vec4<u32>>(value), vec4(0x7fc00000u), abs(value) == vec4(480.0));
}

fn halves(words: vec2<u32>) -> vec4<u32> {
    return vec4(words.x & 0xffffu, words.x >> 16u, words.y & 0xffffu, words.y >> 16u);
}

fn quarters(word: u32) -> vec4<u32> {
    return (vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(0xffu);
}

fn store(i: u32, result: Eight) {
    switch OUTPUT {
        case F32: {
            out.words[2u * i] = result.low;
            out.words[2u * i + 1u] = result.high;
        }
        case BF16, F16: {
            out.words[i] = vec4(result.low.xz | (result.low.yw << vec2(16u)), result.high.xz | (result.high.yw << vec2(16u)));
        }
        default: {
            let shift = vec4(0u, 8u, 16u, 24u);
            let low = result.low << shift;
            let high = result.high << shift;
            let half = 2u * (i & 1u);
            out.words[i / 2u][half] = low.x | low.y | low.z | low.w;
            out.words[i / 2u][half + 1u] = high.x | high.y | high.z | high.w;
        }
    }
}

// Round to the nearest word of OUTPUT, ties to even.
fn narrow(bits: vec4<u32>) -> vec4<u32> {
    let is_nan = (bits & vec4(MAGNITUDE)) > vec4(EXPONENT);
    switch OUTPUT {
        case F32: { return select(bits, vec4(0x7fc00000u), is_nan); }
        case BF16: {
            let rounded = (bits + vec4(0x7fffu) + ((bits >> vec4(16u)) & vec4(1u))) >> vec4(16u);
            return select(rounded, vec4(0x7fc0u), is_nan);
        }
        case F16: { return narrow_small(bits, 5u, 10u, true); }
        case F8E4M3: { return narrow_small(bits, 4u, 3u, false); }
        default: { return narrow_small(bits, 5u, 2u, true); }
    }
}

// widen_small() in element.rs, for f16.
fn widen(bits: vec4<u32>) -> vec4<u32> {
    let rebias = vec4(112u << 23u);
    let magnitude = bits & vec4(0x7fffu);
    let shifted = magnitude << vec4(13u);
    let one = vec4(113u << 23u);
    let subnormal = bitcast<vec4<u32>>(bitcast<vec4<f32>>(shifted + one) - bitcast<vec4<f32>>(one));
    let finite = select(shifted + rebias, subnormal, magnitude < vec4(0x400u));
    return select(finite, shifted + 2u * rebias, magnitude >= vec4(0x7c00u)) | ((bits >> vec4(15u)) << vec4(31u));
}

// narrow_small() in element.rs.
fn narrow_small(bits: vec4<u32>, exp: u32, man: u32, ieee: bool) -> vec4<u32> {
    let bias = (1u << (exp - 1u)) - 1u;
    let shift = 23u - man;
    let magnitude = bits & vec4(MAGNITUDE);
    let round = vec4((1u << (shift - 1u)) - 1u) + ((magnitude >> vec4(shift)) & vec4(1u));
    let normal = (magnitude - vec4((127u - bias) << 23u) + round) >> vec4(shift);
    // adding a number whose last place is the narrow type's smallest step makes the float unit do the rounding
    let magic = (151u - bias - man) << 23u;
    let subnormal = bitcast<vec4<u32>>(bitcast<vec4<f32>>(magnitude) + vec4(bitcast<f32>(magic))) - vec4(magic);
    let top = select((1u << (exp + man)) - 1u, ((1u << exp) - 1u) << man, ieee);
    let rounded = select(min(normal, vec4(top)), subnormal, magnitude < vec4((128u - bias) << 23u));
    let signed = rounded | ((bits >> vec4(31u)) << vec4(exp + man));
    let nan = select(top, top | (1u << (man - 1u)), ieee);
    let is_nan = (magnitude > vec4(EXPONENT)) | ((rounded == vec4(top)) & vec4(!ieee));
    return select(signed, vec4(nan), is_nan);
}

// Flushed products; where they round to it, from 2⁻¹²⁶ − 2⁻¹⁵⁰ on, the smallest normal number. Units that flush before they
// round make zero of those.
fn rounded_up(weight: u32, value: vec4<u32>, flushed: vec4<f32>) -> vec4<f32> {
    let is_near = (value & vec4(EXPONENT)) == vec4(partner(weight));
    if !any(is_near) { return flushed; }
    let a = (weight & 0x7fffffu) | 0x800000u;
    let b = (value & vec4(0x7fffffu)) | vec4(0x800000u);
    // the 48 bits of a · b
    let middle = (a >> 12u) * (b & vec4(0xfffu)) + (a & 0xfffu) * (b >> vec4(12u));
    let low = (a & 0xfffu) * (b & vec4(0xfffu)) + ((middle & vec4(0xfffu)) << vec4(12u));
    let high = (a >> 12u) * (b >> vec4(12u)) + (middle >> vec4(12u)) + (low >> vec4(24u));
    let is_up = is_near & (high == vec4(0x7fffffu)) & ((low & vec4(0x800000u)) != vec4(0u));
    let up = ((value ^ vec4(weight)) & vec4(SIGN)) | vec4(0x800000u);
    return bitcast<vec4<f32>>(select(bitcast<vec4<u32>>(flushed), up, is_up));
}

// The exponent with which a factor makes a product from 2⁻¹²⁷ on; of none, no exponent.
fn partner(weight: u32) -> u32 {
    let exponent = weight & EXPONENT;
    return select((127u << 23u) - exponent, 1u, exponent == 0u || exponent >= (127u << 23u));
}

// Count results from element `start` on that are not finite or come of values that are `bad`, and those that are zero although what
// was computed is not.
fn count(start: u32, sum: vec4<u32>, result: vec4<u32>, bad: vec4<bool>) {
    let is_live = (vec4(start) + vec4(0u, 1u, 2u, 3u)) < vec4(job.elements);
    var magnitude = vec4(0x7fu);
    var infinity = vec4(0x7fu);
    switch OUTPUT {
        case F32: { magnitude = vec4(MAGNITUDE); infinity = vec4(EXPONENT); }
        case BF16: { magnitude = vec4(0x7fffu); infinity = vec4(0x7f80u); }
        case F16: { magnitude = vec4(0x7fffu); infinity = vec4(0x7c00u); }
        case F8E5M2: { infinity = vec4(0x7cu); }
        default: {}
    }
    let size = result & magnitude;
    let is_non_finite = is_live & ((size >= infinity) | bad);
    let is_underflowed = is_live & (size == vec4(0u)) & ((sum & vec4(MAGNITUDE)) != vec4(0u));
    if any(is_non_finite) { atomicAdd(&non_finite, total(is_non_finite)); }
    if any(is_underflowed) { atomicAdd(&underflowed, total(is_underflowed)); }
}

fn total(flags: vec4<bool>) -> u32 {
    return dot(select(vec4(0u), vec4(1u), flags), vec4(1u));
}
