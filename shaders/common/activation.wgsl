// Activations by number: 0 none, 1 ReLU, 2 GELU (erf), 3 GELU (tanh), 4 SiLU, 5 tanh.

// (1 - e) / (1 + e) with e = exp(-2 |x|) never overflows, but cancels near 0, where the series takes over.
fn tanh_safe(x: f32) -> f32 {
    let e = exp(-2.0 * abs(x));
    let x2 = x * x;
    let series = x * (1.0 + x2 * (-1.0 / 3.0 + x2 * (2.0 / 15.0 + x2 * (-17.0 / 315.0))));
    return select(sign(x) * (1.0 - e) / (1.0 + e), series, abs(x) < 0.15);
}

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - p * exp(-x * x));
}

fn silu(x: f32) -> f32 {
    return x / (1.0 + exp(-x));
}

fn activate(x: f32) -> f32 {
#if ACT == 1
    return max(x, 0.0);
#end
#if ACT == 2
    return 0.5 * x * (1.0 + erf(x * 0.70710678));
#end
#if ACT == 3
    return 0.5 * x * (1.0 + tanh_safe(0.79788456 * (x + 0.044715 * x * x * x)));
#end
#if ACT == 4
    return silu(x);
#end
#if ACT == 5
    return tanh_safe(x);
#end
#if ACT == 0
    return x;
#end
}
