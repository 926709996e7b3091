// Derivatives of the activations of common/activation, by the same numbers, each as a sum of terms that keep their relative
// accuracy where the derivative vanishes: a difference from 1 would lose it.

// 1 / (1 + exp(-v)) and its derivative, by an exponential that cannot overflow.
fn logistic(v: f32) -> vec2<f32> {
    let e = exp(-abs(v));
    let r = 1.0 / (1.0 + e);
    return vec2<f32>(select(e, 1.0, v >= 0.0) * r, e * r * r);
}

// erfc(z) exp(z^2) for z >= 0: Chebyshev fit with a relative error below 1.2e-7 (Press et al., Numerical Recipes, erfcc).
fn erfc_scaled(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * z);
    let low = 1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * 0.27886807)));
    let t5 = t * t * t * t * t;
    let high = -1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277));
    return t * exp(-1.26551223 + t * (low + t5 * high));
}

fn slope(value: f32) -> f32 {
    // Beyond, every derivative is 0 or 1 to the last bit, and no power of x overflows.
    let x = clamp(value, -128.0, 128.0);
#if ACT == 0
    return 1.0;
#end
#if ACT == 1
    return select(0.0, 1.0, x > 0.0);
#end
#if ACT == 2
    let e = exp(-0.5 * x * x);
    let tail = 0.5 * e * erfc_scaled(0.70710678 * abs(x));
    return select(tail, 1.0 - tail, x >= 0.0) + x * e * 0.39894228;
#end
#if ACT == 3
    let l = logistic(x * (1.59576912 + 0.07135481 * x * x));
    return l.x + x * l.y * (1.59576912 + 0.21406444 * x * x);
#end
#if ACT == 4
    let l = logistic(x);
    return l.x + x * l.y;
#end
#if ACT == 5
    return 4.0 * logistic(2.0 * x).y;
#end
}
