//! Twins of `shaders/roof.wgsl`.

use crate::kernel::roof::{CHAINS, STEPS};
use crate::plan::{Expected, Snapshot, Tolerance, Twin};

pub(crate) fn copy(words: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p = &s.params()[4..];
        let (from, to) = (4 * p[1] as usize, 4 * p[2] as usize);
        vec![Expected::Words { binding: 1, at: (to..to + words).collect(), want: s.words(0)[from..from + words].to_vec() }]
    })
}

pub(crate) fn fma(invocations: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p = &s.params()[4..];
        let steps = STEPS * p[3] as usize;
        let (factor, addend) = (f64::from(f32::from_bits(p[4])), f64::from(f32::from_bits(p[5])));
        let (mut want, mut magnitude) = (Vec::new(), Vec::new());
        for i in 0..invocations {
            let (mut sum, mut sizes) = (0.0, 0.0);
            for component in 0..4 * CHAINS {
                let mut a = (i % 1024) as f64 / 1024.0 + component as f64;
                let mut m = a;
                for _ in 0..steps {
                    a = a * factor + addend;
                    m = m * factor.abs() + addend.abs();
                }
                sum += a;
                sizes += m;
            }
            want.push(sum);
            magnitude.push(sizes);
        }
        let at = (p[2] as usize..p[2] as usize + invocations).collect();
        // A rounding (two, where the device splits the multiply-add) for each step, and those of the final sum.
        let tolerance = Tolerance { relative_l2: 3e-6, ulps: 16.0 + 2.0 * steps as f64 };
        vec![Expected::Floats { binding: 0, at, want, magnitude, tolerance }]
    })
}
