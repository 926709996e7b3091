//! Twins of `shaders/gate.wgsl` and `shaders/gate_backward.wgsl`.

use super::activate::slope;
use super::linear::activate;
use crate::kernel::linear::Activation;
use crate::plan::{Expected, Snapshot, Tolerance, Twin};

/// `unit`: words that the parameters count in.
pub(crate) fn twin(act: Activation, rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize * unit).collect();
        let (mut at, mut want, mut magnitude) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows {
            for i in 0..p[0] {
                let g = f64::from(s.f32(0)[p[1] + row * p[2] + i]);
                let u = f64::from(s.f32(1)[p[3] + row * p[4] + i]);
                let (a, m) = activate(act, g);
                at.push(p[5] + row * p[6] + i);
                want.push(a * u);
                magnitude.push(m * u.abs());
            }
        }
        vec![Expected::Floats { binding: 2, at, want, magnitude, tolerance: Tolerance::transcendental() }]
    })
}

/// The gradients of `act(g) u` with respect to g and u where that with respect to the product is dy, each with its magnitude.
pub fn backward(act: Activation, g: f64, u: f64, dy: f64) -> [(f64, f64); 2] {
    let ((a, a_size), (d, d_size)) = (activate(act, g), slope(act, g));
    [(dy * u * d, (dy * u).abs() * d_size), (dy * a, dy.abs() * a_size)]
}

/// `unit`: words that the parameters count in.
pub(crate) fn backward_twin(act: Activation, stacked: bool, rows: usize, unit: usize) -> Twin {
    Twin::new(move |s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize * unit).collect();
        let mut out = [3, 4 - usize::from(stacked)].map(|binding| (binding, Vec::new(), Vec::new(), Vec::new()));
        for (row, i) in (0..rows).flat_map(|row| (0..p[0]).map(move |i| (row, i))) {
            let [dy, g, u] = [0, 1, 2].map(|o| f64::from(s.f32(o)[p[1 + 2 * o] + row * p[2 + 2 * o] + i]));
            for (o, (v, m)) in backward(act, g, u, dy).into_iter().enumerate() {
                let (_, at, want, magnitude) = &mut out[o];
                at.push(p[7 + 2 * o] + row * p[8 + 2 * o] + i);
                want.push(v);
                magnitude.push(m);
            }
        }
        let tolerance = Tolerance::transcendental();
        out.into_iter().map(|(binding, at, want, magnitude)| Expected::Floats { binding, at, want, magnitude, tolerance }).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_those_of_the_gate() {
        for act in Activation::ALL {
            for (g, u, dy) in [(-2.3, 0.7, 1.5), (0.4, -1.1, -0.8), (3.1, 2.0, 0.3)] {
                let y = |g, u| activate(act, g).0 * u * dy;
                let h = 1e-5;
                let differences = [(y(g + h, u) - y(g - h, u)) / (2.0 * h), (y(g, u + h) - y(g, u - h)) / (2.0 * h)];
                for ((got, _), want) in backward(act, g, u, dy).into_iter().zip(differences) {
                    assert!((got - want).abs() <= 1e-6 * want.abs(), "{act:?}: {got} where {want} is expected");
                }
            }
        }
    }
}
