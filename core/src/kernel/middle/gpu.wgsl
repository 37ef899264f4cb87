// Twin of fast.rs: the same values, the same sum, the same bytes; change both or neither.
//
// y[i] = round( (s[F] + … + s[K−F−1]) · 1/(K−2F) ), s the values of element i in ascending order
//
// There is no room to sort: each round looks at all operands, and finds the least value above that of the round before, and how often
// it is there. So nothing is kept but a few registers, however many operands there are.

const LOWEST = i32(-0x80000000);   // the key of a NaN, as is the highest
const HIGHEST = i32(0x7fffffff);

// Four elements, and how far they are.
struct Four {
    above: vec4<i32>,   // the key of the last round's value
    seen: vec4<u32>,    // how many values are not above it
    least: vec4<i32>,   // the key of this round's value, and how often it is there
    count: vec4<u32>,
    sum: vec4<u32>,
    first: vec4<u32>,   // the first and the last value that was summed
    last: vec4<u32>,
    worst: vec4<u32>,   // the largest magnitude of all values
}

@compute @workgroup_size(WORKGROUP)
fn middle(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    if id.x * 8u < job.elements { eight(id.x); }
    publish(local);
}

// Elements 8i … 8i + 7 of the result.
fn eight(i: u32) {
    let end = job.operands - job.cut;
    var low = begin();
    var high = begin();
    // a round finds a value for every element, but for those with a NaN, which are not looked at
    for (var round = 0u; round < end && any((low.seen < vec4(end)) | (high.seen < vec4(end))); round += 1u) {
        low.least = vec4(HIGHEST);
        high.least = vec4(HIGHEST);
        for (var k = 0u; k < job.operands; k += 1u) {
            let bits = values(dtype(), load(job.operand[k], i));
            low = look(low, bits.low);
            high = look(high, bits.high);
        }
        low = take(low, end);
        high = take(high, end);
    }
    let total = Eight(finish(low), finish(high));
    let result = Eight(narrow(total.low), narrow(total.high));
    store(i, result);
    count(i * 8u, total.low, result.low, low.worst >= vec4(EXPONENT));
    count(i * 8u + 4u, total.high, result.high, high.worst >= vec4(EXPONENT));
}

fn begin() -> Four {
    // −0 + x is x, to the bit, for every x. A constant −0 may become +0.
    let nothing = vec4(SIGN ^ job.zero);
    return Four(vec4(LOWEST), vec4(0u), vec4(HIGHEST), vec4(0u), nothing, vec4(0u), vec4(0u), vec4(0u));
}

// A value more in this round.
fn look(four: Four, bits: vec4<u32>) -> Four {
    var next = four;
    let key = ordered(bits);
    let is_less = (key > four.above) & (key < four.least);
    let count = four.count + select(vec4(0u), vec4(1u), key == four.least);
    next.count = select(count, vec4(1u), is_less);
    next.least = select(four.least, key, is_less);
    next.worst = max(four.worst, bits & vec4(MAGNITUDE));
    return next;
}

// The end of a round: add the value as often as it lies in the middle.
fn take(four: Four, end: u32) -> Four {
    var next = four;
    let bits = bitcast<vec4<u32>>(ordered(bitcast<vec4<u32>>(four.least)));
    next.seen = four.seen + four.count;
    let start = max(four.seen, vec4(job.cut));
    let to = min(next.seen, vec4(end));
    let times = select(vec4(0u), to - start, to > start);
    let value = bitcast<vec4<f32>>(flushed(bits));
    let most = max(max(times.x, times.y), max(times.z, times.w));
    for (var done = 0u; done < most; done += 1u) {
        let sum = flushed(bitcast<vec4<u32>>(bitcast<vec4<f32>>(next.sum) + value));
        next.sum = select(next.sum, sum, vec4(done) < times);
    }
    let is_in = times > vec4(0u);
    next.first = select(four.first, bits, is_in & (four.seen <= vec4(job.cut)));
    next.last = select(four.last, bits, is_in);
    next.above = four.least;
    next.least = vec4(HIGHEST);
    next.count = vec4(0u);
    return next;
}

// flush(sum · share), or the value itself where all are the same.
fn finish(four: Four) -> vec4<u32> {
    let share = job.operand[0].weight;
    let product = bitcast<vec4<u32>>(bitcast<vec4<f32>>(four.sum) * share);
    var mean = flushed(product);
    if any((product & vec4(EXPONENT)) == vec4(0u)) {
        mean = bitcast<vec4<u32>>(rounded_up(bitcast<u32>(share), four.sum, bitcast<vec4<f32>>(mean)));
    }
    let value = select(mean, four.first, four.first == four.last);
    return select(value, vec4(0x7fc00000u), four.worst > vec4(EXPONENT));
}

// A number whose order, as one with sign, is that of f32 values; of which it gives the bits back.
fn ordered(bits: vec4<u32>) -> vec4<i32> {
    return bitcast<vec4<i32>>(bits ^ ((vec4(0u) - (bits >> vec4(31u))) >> vec4(1u)));
}

// Zero of its sign for a subnormal, by integers, as a float unit may do so at any time.
fn flushed(bits: vec4<u32>) -> vec4<u32> {
    return select(bits, bits & vec4(SIGN), (bits & vec4(EXPONENT)) == vec4(0u));
}
