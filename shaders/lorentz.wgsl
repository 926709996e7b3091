// Maps of points of the Lorentz model, each D consecutive elements of a row. BACK 0: y = map(x). BACK 1: y is the gradient of x where
// that of map(x) is dy. MAP 0: rescale, 1: centroid, 2: exp0, 3: log0; src/kernel/lorentz.rs states them.
//
// Every map is (time, gain x_s), and every gradient (time, gain dy_s + along x_s).
#import common/lorentz

struct Params {
    origin: vec4<u32>,
    points: u32, heads: u32, units: u32, scale_offset: u32,
    x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32,
    dy_offset: u32, dy_stride: u32, ds_offset: u32, ds_stride: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Unit>; // (rows, heads, units)
@group(0) @binding(2) var<storage, read_write> y: array<Unit>; // (rows, heads, units)
#if BACK
@group(0) @binding(3) var<storage, read> dy: array<Unit>; // (rows, heads, units)
#end
#if MAP == 0
@group(0) @binding($(3 + BACK)) var<storage, read> scale: array<f32>;
#if BACK
@group(0) @binding(5) var<storage, read_write> ds: array<f32>; // (rows, heads); in words
#end
#end

const TIME_FLOOR: f32 = 1.1;
const CLAMP: f32 = 1e-8;

struct Image { time: f32, gain: f32 }
struct Gradient { time: f32, gain: f32, along: f32, ds: f32 }

#if MAP == 0
// 1 / (1 + exp(-v)) and its derivative, by an exponential that cannot overflow.
fn logistic(v: f32) -> vec2<f32> {
    let e = exp(-abs(v));
    let r = 1.0 / (1.0 + e);
    return vec2<f32>(select(e, 1.0, v >= 0.0) * r, e * r * r);
}

fn image(x0: f32, squares: f32) -> Image {
    let t = logistic(x0).x * exp(scale[params.scale_offset]) + TIME_FLOOR;
    return Image(t, sqrt((t * t - 1.0) / max(squares, CLAMP)));
}

fn gradient(x0: f32, dy0: f32, squares: f32, product: f32) -> Gradient {
    let e = exp(scale[params.scale_offset]);
    let s = logistic(x0);
    let t = s.x * e + TIME_FLOOR;
    let n = max(squares, CLAMP);
    let g = sqrt((t * t - 1.0) / n);
    let dt = dy0 + product * t / (g * n);
    return Gradient(dt * e * s.y, g, select(0.0, -product * g / n, squares > CLAMP), dt * s.x * e);
}
#end
#if MAP == 1
fn image(x0: f32, squares: f32) -> Image {
    let h = 1.0 / sqrt(max(abs(squares - x0 * x0), CLAMP));
    return Image(h * x0, h);
}

fn gradient(x0: f32, dy0: f32, squares: f32, product: f32) -> Gradient {
    let q = squares - x0 * x0;
    let h = 1.0 / sqrt(max(abs(q), CLAMP));
    let along = select(0.0, -(product + dy0 * x0) * h * h * h * sign(q), abs(q) > CLAMP);
    return Gradient(h * dy0 - along * x0, h, along, 0.0);
}
#end
#if MAP == 2
fn image(x0: f32, squares: f32) -> Image {
    let n = sqrt(squares);
    let m = min(n, MAX_NORM);
    return Image(cosh_of(m), sinh_ratio(m) * select(1.0, MAX_NORM / n, n > MAX_NORM));
}

fn gradient(x0: f32, dy0: f32, squares: f32, product: f32) -> Gradient {
    let n = sqrt(squares);
    if (n > MAX_NORM) {
        let f = sinh_ratio(MAX_NORM) * (MAX_NORM / n);
        return Gradient(0.0, f, -f * product / squares, 0.0);
    }
    let f = sinh_ratio(n);
    // (cosh(n) - sinh(n) / n) / n^2, by its series where it would cancel.
    var slope = 0.33333334 + squares * (0.033333335 + squares * (0.0011904762 + squares * (0.000022045855 + squares * 2.5052108e-7)));
    if (n >= 1.0) { slope = (cosh_of(n) - f) / squares; }
    return Gradient(0.0, f, dy0 * f + product * slope, 0.0);
}
#end
#if MAP == 3
// With z = tanh(asinh(n) / 2) = n / (1 + sqrt(1 + n^2)) asinh(n) is 2 atanh(z) = 2 z (1 + z^2 tail(z^2)). Up to n = 0.75, z = 1/3, the
// terms left out are below 2e-8.
fn tail(q: f32) -> f32 {
    return 0.33333334 + q * (0.2 + q * (0.14285715 + q * (0.11111111 + q * (0.090909094 + q * (0.07692308 + q * 0.06666667)))));
}

// asinh(n) / n.
fn asinh_ratio(n: f32) -> f32 {
    let w = sqrt(1.0 + n * n);
    if (n < 0.75) {
        let z = n / (1.0 + w);
        return 2.0 / (1.0 + w) * (1.0 + z * z * tail(z * z));
    }
    return log(n + w) / n;
}

fn image(x0: f32, squares: f32) -> Image {
    return Image(0.0, asinh_ratio(sqrt(squares)));
}

fn gradient(x0: f32, dy0: f32, squares: f32, product: f32) -> Gradient {
    let n = sqrt(squares);
    let f = asinh_ratio(n);
    let w = sqrt(1.0 + squares);
    // (1 / w - f) / n^2; near 0, where it would cancel, as a sum of terms of one sign.
    let k = 2.0 / (1.0 + w);
    let z = n / (1.0 + w);
    var slope = -0.25 * k * k * k * (1.0 / (1.0 + z * z) + tail(z * z));
    if (n >= 0.75) { slope = (1.0 / w - f) / squares; }
    return Gradient(0.0, f, product * slope, 0.0);
}
#end

@compute @workgroup_size($WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#if LONG
    let point = wid.x + params.origin.x;
    let start = lane;
#else
    let point = (wid.x + params.origin.x) * $(WG)u + lane;
    let start = 0u;
    if (point >= params.points) { return; }
#end
    let row = point / params.heads;
    let head = point % params.heads;
    let x_at = params.x_offset + row * params.x_stride + head * params.units;
    let y_at = params.y_offset + row * params.y_stride + head * params.units;
    let x0 = time_of(x[x_at]);
    var squares = 0.0;
#if BACK
    let dy_at = params.dy_offset + row * params.dy_stride + head * params.units;
    var product = 0.0;
    for (var i = start; i < params.units; i += STRIDE) {
        let v = space(x[x_at + i], i);
        squares += total(v * v);
        product += total(v * dy[dy_at + i]);
    }
    squares = sum_all(squares, lane);
    product = sum_all(product, lane);
    let g = gradient(x0, time_of(dy[dy_at]), squares, product);
    for (var i = start; i < params.units; i += STRIDE) {
        y[y_at + i] = with_time(g.time, g.gain * dy[dy_at + i] + g.along * x[x_at + i], i);
    }
#if MAP == 0
    if (start == 0u) { ds[params.ds_offset + row * params.ds_stride + head] = g.ds; }
#end
#else
    for (var i = start; i < params.units; i += STRIDE) {
        let v = space(x[x_at + i], i);
        squares += total(v * v);
    }
    squares = sum_all(squares, lane);
    let r = image(x0, squares);
    for (var i = start; i < params.units; i += STRIDE) {
        y[y_at + i] = with_time(r.time, r.gain * x[x_at + i], i);
    }
#end
}
