// Twin of fast.rs: the same sum, the same bytes; change both or neither.
//
// y[i] = round( ((w₀·x₀[i]) + w₁·x₁[i]) + … )

const LEAST_NORMAL = 0x1p-126f;

struct Sum { low: vec4<f32>, high: vec4<f32> }

@compute @workgroup_size(WORKGROUP)
fn weighted_sum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    if id.x * 8u < job.elements { eight(id.x); }
    publish(local);
}

// Elements 8i … 8i + 7 of the result.
fn eight(i: u32) {
    // −0 + x is x, to the bit, for every x: the first operand needs no case of its own. A constant −0 may become +0.
    let nothing = bitcast<vec4<f32>>(vec4(SIGN ^ job.zero));
    var sum = Sum(nothing, nothing);
    let first = load(job.operand[0], i);
    var differs = Packed();
    var k = 0u;
    // four loads on their way at a time hide most of what memory takes
    for (; k + 4u <= job.operands; k += 4u) {
        let a = load(job.operand[k], i);
        let b = load(job.operand[k + 1u], i);
        let c = load(job.operand[k + 2u], i);
        let d = load(job.operand[k + 3u], i);
        sum = add(add(add(add(sum, k, a), k + 1u, b), k + 2u, c), k + 3u, d);
        differs.low |= (a.low ^ first.low) | (b.low ^ first.low) | (c.low ^ first.low) | (d.low ^ first.low);
        differs.high |= (a.high ^ first.high) | (b.high ^ first.high) | (c.high ^ first.high) | (d.high ^ first.high);
    }
    for (; k < job.operands; k += 1u) {
        let a = load(job.operand[k], i);
        sum = add(sum, k, a);
        differs.low |= a.low ^ first.low;
        differs.high |= a.high ^ first.high;
    }
    // only zeros make zero bits
    let value = values(dtype(), first);
    let different = values(dtype(), differs);
    let total = Eight(
        select(bitcast<vec4<u32>>(sum.low), value.low, different.low == vec4(0u)),
        select(bitcast<vec4<u32>>(sum.high), value.high, different.high == vec4(0u)),
    );
    let result = Eight(narrow(total.low), narrow(total.high));
    store(i, result);
    count(i * 8u, total.low, result.low, vec4(false));
    count(i * 8u + 4u, total.high, result.high, vec4(false));
}

// flush(sum + flush(weight · flush(value)))
fn add(sum: Sum, k: u32, packed: Packed) -> Sum {
    let weight = job.operand[k].weight;
    let bits = values(dtype(), packed);
    let value = Sum(bitcast<vec4<f32>>(bits.low), bitcast<vec4<f32>>(bits.high));
    // the detour over `zero` keeps product and sum from being fused into one rounding
    let low = bitcast<vec4<f32>>(bitcast<vec4<u32>>(weight * value.low) ^ vec4(job.zero));
    let high = bitcast<vec4<f32>>(bitcast<vec4<u32>>(weight * value.high) ^ vec4(job.zero));
    var size = Sum(abs(low), abs(high));
    // a subnormal value makes a zero, whatever the product is; other dtypes have none
    if INPUT == F32 || INPUT == BF16 || INPUT == MIXED {
        size = Sum(min(abs(value.low), size.low), min(abs(value.high), size.high));
    }
    let live = Sum(normal(size.low), normal(size.high));
    var next = Sum(sum.low + low * live.low, sum.high + high * live.high);
    // one test for all eight: products this small are rare
    let all = live.low * live.high;
    if all.x * all.y * all.z * all.w == 0.0 {
        next.low = sum.low + rounded_up(bitcast<u32>(weight), bits.low, low * live.low);
        next.high = sum.high + rounded_up(bitcast<u32>(weight), bits.high, high * live.high);
    }
    return Sum(next.low * normal(abs(next.low)), next.high * normal(abs(next.high)));
}

// 0 for subnormals and zeros, else 1. Such a factor may be fused or moved: the result is the same.
fn normal(size: vec4<f32>) -> vec4<f32> {
    return select(vec4(1.0), vec4(0.0), size < vec4(LEAST_NORMAL));
}
