// Points of the Lorentz model by units of a word, or (VEC) of a vec4. Element 0 of a point, the first word of unit 0, is its time.
// LONG: a workgroup of WG invocations a point, each with every WG-th unit; else an invocation a point.
#if VEC
alias Unit = vec4<f32>;
fn total(v: Unit) -> f32 { return dot(v, vec4<f32>(1.0)); }
fn time_of(v: Unit) -> f32 { return v.x; }
// Unit i of a point, with this time.
fn with_time(time: f32, v: Unit, i: u32) -> Unit { return select(v, vec4<f32>(time, v.yzw), i == 0u); }
#else
alias Unit = f32;
fn total(v: Unit) -> f32 { return v; }
fn time_of(v: Unit) -> f32 { return v; }
fn with_time(time: f32, v: Unit, i: u32) -> Unit { return select(v, time, i == 0u); }
#end
#if LONG
#import common/reduce
const STRIDE: u32 = $(WG)u;
#else
fn sum_all(v: f32, lane: u32) -> f32 { return v; }
const STRIDE: u32 = 1u;
#end

const MAX_NORM: f32 = 10.0; // hyperbolic::MAX_NORM

// Unit i of (0, x_s).
fn space(v: Unit, i: u32) -> Unit { return with_time(0.0, v, i); }

// Unit i of (-x_0, x_s).
fn flip(v: Unit, i: u32) -> Unit { return with_time(-time_of(v), v, i); }

// sinh(n) / n; below 1, where exponentials would cancel, by its series: the terms left out are below 3e-8.
fn sinh_ratio(n: f32) -> f32 {
    if (n < 1.0) {
        let q = n * n;
        return 1.0 + q * (0.16666667 + q * (0.0083333338 + q * (0.00019841270 + q * 0.0000027557319)));
    }
    let e = exp(n);
    return 0.5 * (e - 1.0 / e) / n;
}

fn cosh_of(n: f32) -> f32 {
    let e = exp(n);
    return 0.5 * (e + 1.0 / e);
}
