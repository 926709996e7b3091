//! Twins of `shaders/svd_polar.wgsl`.

use crate::plan::{Expected, Judge, Snapshot, Tolerance, Twin};

fn row(s: &Snapshot, r: usize) -> Vec<f64> {
    let [k, stride] = [s.params()[4], s.params()[5]].map(|v| v as usize);
    s.f32(0)[r * stride..r * stride + k].iter().map(|v| f64::from(*v)).collect()
}

pub(crate) fn distance() -> Twin {
    Twin::new(|s: &Snapshot| {
        let (k, at) = (s.params()[4] as usize, s.params()[6] as usize);
        let mut want = [f64::from(s.f32(1)[at]), f64::from(s.f32(1)[at + 1])];
        for r in 0..k {
            let row = row(s, r);
            let off = row.iter().enumerate().map(|(c, v)| (v - f64::from(u8::from(c == r))).abs()).fold(0.0, f64::max);
            want = [want[0].max(off), want[1].max(row.iter().map(|v| v.abs()).sum())];
        }
        // A difference of two numbers near 1 is exact, a sum of k magnitudes is not.
        let error = 2f64.powi(-24) * (8.0 + k as f64 / 64.0);
        let judge: Judge = Box::new(move |w| {
            let got = [at, at + 1].map(|i| f64::from(f32::from_bits(w[i])));
            let near = (0..2).all(|i| (got[i] - want[i]).abs() <= error * want[i]);
            if near { Ok(()) } else { Err(format!("{got:?} where {want:?} is expected")) }
        });
        vec![Expected::Choice { binding: 1, at: vec![at, at + 1], judge }]
    })
}

pub(crate) fn polynomial() -> Twin {
    Twin::new(|s: &Snapshot| {
        let [k, stride, at] = [s.params()[4], s.params()[5], s.params()[6]].map(|v| v as usize);
        let bound = f64::from(s.f32(1)[at + 1]);
        let c = if bound > f64::from(2.9f32) { (f64::from(2.9f32) / bound).sqrt() } else { 1.0 };
        let (mut places, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for r in 0..k {
            for (i, v) in row(s, r).into_iter().enumerate() {
                let one = if i == r { 1.5 * c } else { 0.0 };
                let part = 0.5 * c.powi(3) * v;
                places.push(r * stride + i);
                want.push(one - part);
                magnitude.push(one + part.abs());
            }
        }
        let tolerance = Tolerance { relative_l2: 3e-6, ..Tolerance::elementwise() };
        vec![Expected::Floats { binding: 0, at: places, want, magnitude, tolerance }]
    })
}
