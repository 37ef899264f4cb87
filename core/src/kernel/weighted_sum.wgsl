// Twin of weighted_sum.rs: the same sum, the same bytes; change both or neither.
//
// y[i] = round( ((w₀·x₀[i]) + w₁·x₁[i]) + … )
//
// One invocation makes eight elements: loads are 16 bytes wide for all but the 8-bit dtypes. Values travel as their bits,
// and every rounding, flush and NaN is made here with integers, because WGSL promises none of them. Elements beyond
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
    padding: u32,
    operand: array<Operand, MAX_OPERANDS>,
}

struct Out {
    non_finite: atomic<u32>,
    underflowed: atomic<u32>,
    workgroups: atomic<u32>,   // how many have finished: proof that the kernel ran
    words: array<vec2<u32>>,
}

@group(0) @binding(0) var<uniform>             job:    Job;
@group(0) @binding(1) var<storage, read>       inputs: array<vec4<u32>>;   // [k][i], each operand from its `start`
@group(0) @binding(2) var<storage, read_write> out:    Out;                // [i]

const MAX_OPERANDS = 256u;        // MAX_OPERANDS in weighted_sum.rs
const WORKGROUP = 256u;           // WORKGROUP
const F32 = 0u;                   // wgsl_dtype()
const BF16 = 1u;
const F16 = 2u;
const F8E4M3 = 3u;
const F8E5M2 = 4u;
const MIXED = 5u;

override INPUT: u32 = MIXED;      // the dtype of all operands, known when the pipeline is made
override OUTPUT: u32 = F32;

const SIGN = 0x80000000u;
const EXPONENT = 0x7f800000u;
const MAGNITUDE = 0x7fffffffu;

struct Eight { low: vec4<u32>, high: vec4<u32> }

@compute @workgroup_size(WORKGROUP)
fn weighted_sum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = id.x;
    if i * 8u >= job.elements { return; }
    // −0 + x is x, to the bit, for every x: the first operand needs no case of its own
    var sum = Eight(vec4(SIGN), vec4(SIGN));
    var first = Eight();
    var differs = Eight();
    for (var k = 0u; k < job.operands; k += 1u) {
        let operand = job.operand[k];
        let value = load(operand, i);
        sum.low = add(sum.low, operand.weight, value.low);
        sum.high = add(sum.high, operand.weight, value.high);
        if k == 0u { first = value; }
        differs.low |= value.low ^ first.low;
        differs.high |= value.high ^ first.high;
    }
    sum.low = select(sum.low, first.low, differs.low == vec4(0u));
    sum.high = select(sum.high, first.high, differs.high == vec4(0u));
    let result = Eight(narrow(sum.low), narrow(sum.high));
    store(i, result);
    count(i * 8u, sum.low, result.low);
    count(i * 8u + 4u, sum.high, result.high);
    if local == 0u { atomicAdd(&out.workgroups, 1u); }
}

// flush(sum + flush(weight · flush(value)))
fn add(sum: vec4<u32>, weight: f32, value: vec4<u32>) -> vec4<u32> {
    let product = weight * bitcast<vec4<f32>>(flush(value));
    // the detour over `zero` keeps product and sum from being fused into one rounding
    var exact = flush(bitcast<vec4<u32>>(product) ^ vec4(job.zero));
    let is_small = (value & vec4(EXPONENT)) == vec4(partner(bitcast<u32>(weight)));
    if any(is_small) { exact = select(exact, rounded_up(bitcast<u32>(weight), value, exact), is_small); }
    return flush(bitcast<vec4<u32>>(bitcast<vec4<f32>>(sum) + bitcast<vec4<f32>>(exact)));
}

// The exponent with which a factor makes a product from 2⁻¹²⁷ on; of none, no exponent.
fn partner(weight: u32) -> u32 {
    let exponent = weight & EXPONENT;
    return select((127u << 23u) - exponent, 1u, exponent == 0u || exponent >= (127u << 23u));
}

// `product` of `partner`s; where it rounds to it, from 2⁻¹²⁶ − 2⁻¹⁵⁰ on, the smallest normal number. Units that flush before
// they round make zero of those.
fn rounded_up(weight: u32, value: vec4<u32>, product: vec4<u32>) -> vec4<u32> {
    let a = (weight & 0x7fffffu) | 0x800000u;
    let b = (value & vec4(0x7fffffu)) | vec4(0x800000u);
    // the 48 bits of a · b
    let middle = (a >> 12u) * (b & vec4(0xfffu)) + (a & 0xfffu) * (b >> vec4(12u));
    let low = (a & 0xfffu) * (b & vec4(0xfffu)) + ((middle & vec4(0xfffu)) << vec4(12u));
    let high = (a >> 12u) * (b >> vec4(12u)) + (middle >> vec4(12u)) + (low >> vec4(24u));
    let is_up = (high == vec4(0x7fffffu)) & ((low & vec4(0x800000u)) != vec4(0u));
    return select(product, ((value ^ vec4(weight)) & vec4(SIGN)) | vec4(0x800000u), is_up);
}

// A subnormal becomes zero of its sign.
fn flush(bits: vec4<u32>) -> vec4<u32> {
    return bits & select(vec4(~0u), vec4(SIGN), (bits & vec4(EXPONENT)) == vec4(0u));
}

// Elements 8i … 8i + 7 of an operand, widened to f32.
fn load(operand: Operand, i: u32) -> Eight {
    var dtype = INPUT;
    if INPUT == MIXED { dtype = operand.dtype; }
    switch dtype {
        case F32: {
            return Eight(inputs[operand.start + 2u * i], inputs[operand.start + 2u * i + 1u]);
        }
        case BF16: {
            let words = inputs[operand.start + i];
            return Eight(halves(words.xy) << vec4(16u), halves(words.zw) << vec4(16u));
        }
        case F16: {
            let words = inputs[operand.start + i];
            return Eight(widen(halves(words.xy), 5u, 10u, true), widen(halves(words.zw), 5u, 10u, true));
        }
        case F8E4M3: {
            let words = pair(operand.start, i);
            return Eight(widen(quarters(words.x), 4u, 3u, false), widen(quarters(words.y), 4u, 3u, false));
        }
        default: {
            let words = pair(operand.start, i);
            return Eight(widen(quarters(words.x), 5u, 2u, true), widen(quarters(words.y), 5u, 2u, true));
        }
    }
}

fn pair(start: u32, i: u32) -> vec2<u32> {
    let words = inputs[start + i / 2u];
    return select(words.xy, words.zw, (i & 1u) == 1u);
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
            out.words[4u * i] = result.low.xy;
            out.words[4u * i + 1u] = result.low.zw;
            out.words[4u * i + 2u] = result.high.xy;
            out.words[4u * i + 3u] = result.high.zw;
        }
        case BF16, F16: {
            out.words[2u * i] = result.low.xz | (result.low.yw << vec2(16u));
            out.words[2u * i + 1u] = result.high.xz | (result.high.yw << vec2(16u));
        }
        default: {
            let shift = vec4(0u, 8u, 16u, 24u);
            let low = result.low << shift;
            let high = result.high << shift;
            out.words[i] = vec2(low.x | low.y | low.z | low.w, high.x | high.y | high.z | high.w);
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

// widen_small() in dtype.rs: a sign–exponent–mantissa pattern of `exp` and `man` bits to f32, exactly.
fn widen(bits: vec4<u32>, exp: u32, man: u32, ieee: bool) -> vec4<u32> {
    let rebias = (128u - (1u << (exp - 1u))) << 23u;
    let magnitude = bits & vec4((1u << (exp + man)) - 1u);
    let shifted = magnitude << vec4(23u - man);
    let one = rebias + (1u << 23u);
    let subnormal = bitcast<vec4<u32>>(bitcast<vec4<f32>>(shifted + vec4(one)) - vec4(bitcast<f32>(one)));
    var is_special = magnitude == vec4((1u << (exp + man)) - 1u);
    var special = vec4(0x7fc00000u);
    if ieee {
        is_special = (magnitude >> vec4(man)) == vec4((1u << exp) - 1u);
        special = shifted + vec4(2u * rebias);
    }
    let finite = select(shifted + vec4(rebias), subnormal, (magnitude >> vec4(man)) == vec4(0u));
    return select(finite, special, is_special) | ((bits >> vec4(exp + man)) << vec4(31u));
}

// narrow_small() in dtype.rs.
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

// Count results from element `start` on that are not finite, or zero although the sum is not.
fn count(start: u32, sum: vec4<u32>, result: vec4<u32>) {
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
    let is_non_finite = is_live & (size >= infinity);
    let is_underflowed = is_live & (size == vec4(0u)) & ((sum & vec4(MAGNITUDE)) != vec4(0u));
    if any(is_non_finite) { atomicAdd(&out.non_finite, total(is_non_finite)); }
    if any(is_underflowed) { atomicAdd(&out.underflowed, total(is_underflowed)); }
}

fn total(flags: vec4<bool>) -> u32 {
    return dot(select(vec4(0u), vec4(1u), flags), vec4(1u));
}
