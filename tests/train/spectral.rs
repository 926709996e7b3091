//! A spectral layer as a whole, against its definition in f64: derivatives by finite differences, and what one step does to W.

use crate::kernels::context;
use etalon::autograd::{Gradient, Strategy};
use etalon::train::random::Random;
use etalon::train::{Basis, Data, Initial, Linear, Method, Options, Schedule, Spec, Sst, Stand, Trainer};

const EXAMPLES: usize = 12;
/// Inputs and classes: wide, tall and square weights, and primes.
const SHAPES: [(usize, usize); 4] = [(16, 7), (7, 16), (12, 12), (13, 5)];

/// One layer and a softmax: W = U diag(sigma) Vᵀ is `m x n`, and W's gradient is known.
struct Layer {
    t: Trainer,
    x: Vec<f64>,
    classes: Vec<usize>,
    m: usize,
    n: usize,
}

/// Factors as rows: `k x m`, `k`, `k x n`.
#[derive(Clone)]
struct Factors {
    u: Vec<f64>,
    sigma: Vec<f64>,
    v: Vec<f64>,
}

fn wide(v: Vec<f32>) -> Vec<f64> {
    v.into_iter().map(f64::from).collect()
}

impl Layer {
    fn new((n, m): (usize, usize), sst: Sst, rate: f64, seed: u64) -> Self {
        let mut g = Random::new(seed, 7);
        let x: Vec<f32> = (0..EXAMPLES * n).map(|_| g.normal() as f32).collect();
        let classes: Vec<usize> = (0..EXAMPLES).map(|i| (i * 5 + 1) % m).collect();
        let options = Options {
            method: Method::Sst(sst),
            steps: 8,
            rate,
            rate_rest: Some(0.0),
            schedule: Schedule::Constant,
            warmup: 0,
            clip: None,
            sgd: true,
            sequences: EXAMPLES,
            context: 1,
            seed,
            ..Options::default()
        };
        let tokens = (0..EXAMPLES).flat_map(|i| [i as u32, classes[i] as u32]).collect();
        let starts = (0..8 * EXAMPLES).map(|i| 2 * (i % EXAMPLES) as u32).collect();
        let data = Data { tokens, starts, examples: Some((EXAMPLES, n, x.clone())), ..Data::default() };
        let c = context();
        let t = c.block_on(Trainer::new(&c, &Spec::Mlp(vec![n, m]), &options, &data, &Initial::Random)).unwrap();
        Self { t, x: wide(x), classes, m, n }
    }

    fn linear(&self) -> Linear {
        self.t.linears()[0].clone()
    }

    fn k(&self) -> usize {
        self.m.min(self.n)
    }

    fn factors(&self) -> Factors {
        let Stand::Spectral { ut, sigma, vt, .. } = self.linear().weight else { panic!("not spectral") };
        let [u, sigma, v] = [ut, sigma, vt].map(|id| wide(context().block_on(self.t.values(id)).unwrap()));
        Factors { u, sigma, v }
    }

    /// Gradients of the active u and v, and of sigma.
    fn gradients(&self) -> [Vec<f64>; 3] {
        let Stand::Spectral { ut, sigma, vt, .. } = self.linear().weight else { panic!("not spectral") };
        [ut, vt, sigma].map(|id| wide(context().block_on(self.t.gradient(id)).unwrap().unwrap()))
    }

    fn active(&self) -> Vec<usize> {
        context().block_on(self.t.active(&self.linear())).unwrap().into_iter().map(|i| i as usize).collect()
    }

    fn step(&mut self) {
        context().block_on(self.t.submit_step()).unwrap();
        context().block_on(self.t.reports()).unwrap();
    }

    fn weight(&self, f: &Factors) -> Vec<f64> {
        let (m, n) = (self.m, self.n);
        let at = |i: usize, j: usize| (0..self.k()).map(|k| f.u[k * m + i] * f.sigma[k] * f.v[k * n + j]).sum();
        (0..m * n).map(|e| at(e / n, e % n)).collect()
    }

    /// Probabilities less the right class's 1, `examples x m`, and the mean loss; biases are 0.
    fn errors(&self, w: &[f64]) -> (Vec<f64>, f64) {
        let (m, n) = (self.m, self.n);
        let (mut out, mut loss) = (Vec::new(), 0.0);
        for (x, class) in self.x.chunks(n).zip(&self.classes) {
            let logits: Vec<f64> = w.chunks(n).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
            let total: f64 = logits.iter().map(|l| l.exp()).sum();
            loss += (total.ln() - logits[*class]) / EXAMPLES as f64;
            out.extend((0..m).map(|i| logits[i].exp() / total - f64::from(u8::from(i == *class))));
        }
        (out, loss)
    }

    fn loss(&self, f: &Factors) -> f64 {
        self.errors(&self.weight(f)).1
    }

    /// `dL/dW`, `m x n`.
    fn gradient(&self, w: &[f64]) -> Vec<f64> {
        let (m, n) = (self.m, self.n);
        let errors = self.errors(w).0;
        let at = |i: usize, j: usize| (0..EXAMPLES).map(|e| errors[e * m + i] * self.x[e * n + j]).sum::<f64>() / EXAMPLES as f64;
        (0..m * n).map(|e| at(e / n, e % n)).collect()
    }
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn relative(got: &[f64], want: &[f64]) -> f64 {
    norm(&got.iter().zip(want).map(|(g, w)| g - w).collect::<Vec<_>>()) / norm(want)
}

fn every_case(mut check: impl FnMut((usize, usize), Sst)) {
    for shape in SHAPES {
        for strategy in [Strategy::Factored, Strategy::Dense] {
            for rank in [1, 3, shape.0.min(shape.1)] {
                check(shape, Sst { rank, strategy, warmup: 1, steps: 100, ..Sst::default() });
            }
        }
    }
}

/// Central differences of the loss in f64 with a step of 1e-5: exact to some 1e-9; the rest is f32 on the device, sums of 12 products.
#[test]
fn gradients_are_the_derivatives() {
    every_case(|shape, sst| {
        let mut enhanced = Layer::new(shape, sst, 0.0, 3);
        let mut l = Layer::new(shape, Sst { gradient: Gradient::Default, ..sst }, 0.0, 3);
        l.step();
        enhanced.step();
        let (f, active) = (l.factors(), l.active());
        assert_eq!(active, enhanced.active());
        let difference = |place: &dyn Fn(&mut Factors) -> &mut f64| {
            let at = |h: f64| {
                let mut moved = f.clone();
                *place(&mut moved) += h;
                l.loss(&moved)
            };
            (at(1e-5) - at(-1e-5)) / 2e-5
        };
        let (m, n) = (l.m, l.n);
        let u: Vec<f64> = active.iter().flat_map(|k| (0..m).map(move |i| k * m + i)).map(|e| difference(&|f| &mut f.u[e])).collect();
        let v: Vec<f64> = active.iter().flat_map(|k| (0..n).map(move |i| k * n + i)).map(|e| difference(&|f| &mut f.v[e])).collect();
        let sigma: Vec<f64> = (0..l.k()).map(|e| difference(&|f| &mut f.sigma[e])).collect();
        let ([gu, gv, gs], [eu, ev, es]) = (l.gradients(), enhanced.gradients());
        for (name, got, want) in [("u", &gu, &u), ("v", &gv, &v), ("sigma", &gs, &sigma), ("enhanced sigma", &es, &sigma)] {
            assert!(relative(got, want) < 2e-6, "{shape:?} {sst:?} {name}: {:e}", relative(got, want));
        }
        // Enhanced times sigma is the derivative.
        for (name, enhanced, want, cols) in [("u", eu, u, m), ("v", ev, v, n)] {
            let scaled: Vec<f64> = enhanced.iter().enumerate().map(|(e, g)| g * f.sigma[active[e / cols]]).collect();
            assert!(relative(&scaled, &want) < 2e-6, "{shape:?} {sst:?} enhanced {name}: {:e}", relative(&scaled, &want));
        }
    });
}

/// What a step of plain gradient descent with normalisation does to W in first order (design notes: "SST is descent preconditioned in
/// the basis of the singular vectors"): `-rate U (K o M) Vᵀ` with `M = Uᵀ G V`, `K_ii = 1`, and beside it
/// `K_ij = sigma_j [j active] + sigma_i [i active]` for enhanced gradients, their squares for derivatives; what lies outside of the
/// narrower side's span keeps `sigma_i [i active]` of its row.
fn predicted(l: &Layer, f: &Factors, g: &[f64], active: &[usize], power: i32) -> Vec<f64> {
    let (k, m, n) = (l.k(), l.m, l.n);
    let weight = |i: usize| if active.contains(&i) { f.sigma[i].powi(power) } else { 0.0 };
    let ug: Vec<f64> = (0..k * n).map(|e| (0..m).map(|i| f.u[e / n * m + i] * g[i * n + e % n]).sum()).collect();
    let gv: Vec<f64> = (0..k * m).map(|e| (0..n).map(|j| f.v[e / m * n + j] * g[e % m * n + j]).sum()).collect();
    let core = |i: usize, j: usize| (0..n).map(|c| ug[i * n + c] * f.v[j * n + c]).sum::<f64>();
    let mut change = vec![0.0; m * n];
    for i in 0..k {
        // Of v_i what is orthogonal to v_i, and of u_i what is orthogonal to u_i: rows of U sigma and columns of sigma V turn.
        let own = core(i, i);
        for r in 0..m {
            for c in 0..n {
                let turned_v = ug[i * n + c] - own * f.v[i * n + c];
                let turned_u = gv[i * m + r] - own * f.u[i * m + r];
                change[r * n + c] += f.u[i * m + r] * own * f.v[i * n + c];
                change[r * n + c] += weight(i) * (f.u[i * m + r] * turned_v + turned_u * f.v[i * n + c]);
            }
        }
    }
    change
}

/// At a rate of 1e-3 the second order is some 1e-3 of the first, and f32 rounding of the factors (6e-8 of values up to 1, over
/// changes of 1e-3 times gradients of 0.1 and less) the same.
#[test]
fn a_step_changes_w_as_the_closed_form_says() {
    let rate = 1e-3;
    every_case(|shape, sst| {
        for (gradient, power) in [(Gradient::Enhanced, 1), (Gradient::Default, 2)] {
            let mut l = Layer::new(shape, Sst { gradient, ..sst }, rate, 5);
            let before = l.factors();
            let w = l.weight(&before);
            l.step();
            let after = l.weight(&l.factors());
            let change: Vec<f64> = after.iter().zip(&w).map(|(a, b)| (b - a) / rate).collect();
            let g = l.gradient(&w);
            let want = predicted(&l, &before, &g, &l.active(), power);
            assert!(relative(&change, &want) < 1e-2, "{shape:?} {sst:?} {gradient:?}: {:e}", relative(&change, &want));
            assert!(relative(&change, &g) > 0.05, "{shape:?} {sst:?}: this is full-rank descent");
        }
    });
}

/// Frozen rows keep their bits, active ones have norm 1, all singular values move.
#[test]
fn a_step_moves_what_it_should() {
    every_case(|shape, sst| {
        let mut l = Layer::new(shape, sst, 0.05, 6);
        let before = l.factors();
        l.step();
        let (after, active, m, n) = (l.factors(), l.active(), l.m, l.n);
        for k in 0..l.k() {
            assert!(after.sigma[k] != before.sigma[k] && after.sigma[k] >= 0.0, "{shape:?} sigma {k}");
            for (a, b, cols) in [(&after.u, &before.u, m), (&after.v, &before.v, n)] {
                let (a, b) = (&a[k * cols..][..cols], &b[k * cols..][..cols]);
                if !active.contains(&k) {
                    assert_eq!(a, b, "{shape:?}: row {k} is frozen");
                    continue;
                }
                assert_ne!(a, b, "{shape:?}: row {k} is active");
                assert!((norm(a) - 1.0).abs() < 1e-6, "{shape:?}: row {k}");
            }
        }
    });
}

/// With sampled values only, the others keep their bits; the gradient of a sampled one is what it is with all.
#[test]
fn sampled_sigma_leaves_the_others() {
    every_case(|shape, sst| {
        let mut all = Layer::new(shape, sst, 0.05, 6);
        let mut l = Layer::new(shape, Sst { sampled_sigma: true, ..sst }, 0.05, 6);
        let before = l.factors();
        all.step();
        l.step();
        let (after, whole, active) = (l.factors(), all.factors(), l.active());
        for k in 0..l.k() {
            let want = if active.contains(&k) { whole.sigma[k] } else { before.sigma[k] };
            assert_eq!(after.sigma[k], want, "{shape:?} {sst:?} sigma {k}");
        }
    });
}

/// Another basis keeps the spectrum and orthonormal vectors, but is no longer a decomposition of the initial weight.
#[test]
fn a_basis_is_what_it_says() {
    for shape in SHAPES {
        let of = |basis| Layer::new(shape, Sst { rank: 2, basis, ..Sst::default() }, 0.0, 9);
        let (svd, random, zero) = (of(Basis::Svd), of(Basis::Random), of(Basis::Zero));
        let [s, r, z] = [&svd, &random, &zero].map(Layer::factors);
        assert_eq!(s.sigma, r.sigma);
        assert!(z.sigma.iter().all(|v| *v == 0.0) && z.u == s.u && z.v == s.v);
        assert!(relative(&random.weight(&r), &svd.weight(&s)) > 0.5);
        for (rows, cols) in [(&r.u, random.m), (&r.v, random.n)] {
            for (i, a) in rows.chunks(cols).enumerate() {
                for (j, b) in rows.chunks(cols).enumerate() {
                    let dot: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-5, "{shape:?} rows {i} and {j}: {dot}");
                }
            }
        }
    }
}
