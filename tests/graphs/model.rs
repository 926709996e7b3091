//! The networks in f64, and what the device makes of them.

use super::tree;
use crate::kernels::context;
use etalon::graphs::{Graph, adjacency, lifted, normalised};
use etalon::hyperbolic::{inner, squared_distance};
use etalon::kernel::progress::Progress;
use etalon::reference::negatives::pairs;
use etalon::tensor::Csr;
use etalon::train::{Data, Geometry, GraphData, GraphNet, GraphRows, Initial, Method, Options, Schedule, Spec, Sst, Task, Trainer};
use std::collections::BTreeMap;

/// Wide enough that ReLU leaves no point without space, where the rescaling has no slope to speak of.
const WIDTH: usize = 9;
const MARGIN: f64 = 1.7;

type Parameters = BTreeMap<String, Vec<f64>>;

struct Case {
    graph: Graph,
    features: Csr,
    adjacency: Csr,
    net: GraphNet,
    /// Nodes and classes, or linked nodes.
    pairs: Vec<u32>,
    rows: GraphRows,
}

fn case(task: Task, geometry: Geometry) -> Case {
    let graph = tree(23, 4);
    let features = if geometry == Geometry::Lorentz { lifted(&normalised(&graph.features)) } else { normalised(&graph.features) };
    let (pairs, rows, margin) = match task {
        // A node twice, as in the leaky division of a known graph.
        Task::Classes(_) => {
            let nodes = [0u32, 3, 4, 9, 9, 17, 22];
            (nodes.iter().flat_map(|n| [*n, graph.labels[*n as usize].unwrap()]).collect(), GraphRows::Nodes, MARGIN)
        }
        Task::Links => (graph.edges.concat(), GraphRows::Links, 3.0 * MARGIN),
    };
    let net = GraphNet { geometry, task, inputs: features.cols, width: WIDTH, layers: 2, relu: true, margin: margin as f32 };
    Case { adjacency: adjacency(graph.nodes, &graph.edges).unwrap(), graph, features, net, pairs, rows }
}

impl Case {
    fn trainer(&self, method: Method, seed: u64) -> Trainer {
        let starts: Vec<u32> = (0..self.pairs.len() as u32).step_by(2).collect();
        let o = Options {
            method,
            steps: 1000,
            rate: 0.01,
            schedule: Schedule::Constant,
            warmup: 0,
            clip: None,
            sequences: starts.len(),
            context: 1,
            seed,
            ..Options::default()
        };
        let graph = GraphData { adjacency: self.adjacency.clone(), features: self.features.clone(), rows: self.rows };
        let data = Data { tokens: self.pairs.clone(), starts, graph: Some(graph), ..Data::default() };
        let c = context();
        c.block_on(Trainer::new(&c, &Spec::Graph(self.net.clone()), &o, &data, &Initial::Random)).unwrap()
    }

    fn times(a: &Csr, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let row = |r: usize| {
            let mut sum = vec![0.0; x[0].len()];
            for (c, v) in a.row(r) {
                sum.iter_mut().zip(&x[c as usize]).for_each(|(s, x)| *s += f64::from(v) * x);
            }
            sum
        };
        (0..a.rows).map(row).collect()
    }

    /// The nodes' points.
    fn points(&self, p: &Parameters) -> Vec<Vec<f64>> {
        let lorentz = self.net.geometry == Geometry::Lorentz;
        let dense = |r: usize| {
            let mut row = vec![0.0; self.features.cols];
            self.features.row(r).for_each(|(c, v)| row[c as usize] = f64::from(v));
            row
        };
        let mut x: Vec<Vec<f64>> = (0..self.graph.nodes).map(dense).collect();
        for i in 0..self.net.layers {
            let at = |part: &str| &p[&format!("layers.{i}.{part}")];
            let (w, bias) = (at("linear.weight"), at("linear.bias"));
            if lorentz && i > 0 {
                x.iter_mut().flatten().for_each(|v| *v = v.max(0.0));
            }
            let map = |row: &Vec<f64>| -> Vec<f64> {
                let n = row.len();
                (0..WIDTH).map(|o| bias[o] + row.iter().zip(&w[o * n..]).map(|(x, w)| x * w).sum::<f64>()).collect()
            };
            x = x.iter().map(map).collect();
            if !lorentz {
                x = Self::times(&self.adjacency, &x);
                x.iter_mut().flatten().for_each(|v| *v = v.max(0.0));
                continue;
            }
            let scale = at("scale")[0].exp();
            let rescaled = |a: &Vec<f64>| {
                let t = scale / (1.0 + (-a[0]).exp()) + 1.1;
                let n2 = a[1..].iter().map(|v| v * v).sum::<f64>();
                assert!(n2 > 1e-6, "a point without space");
                let g = ((t * t - 1.0) / n2).sqrt();
                std::iter::once(t).chain(a[1..].iter().map(|v| g * v)).collect::<Vec<f64>>()
            };
            x = Self::times(&self.adjacency, &x.iter().map(rescaled).collect::<Vec<_>>());
            let centroid = |s: &Vec<f64>| s.iter().map(|v| v / inner(s, s).abs().sqrt()).collect::<Vec<f64>>();
            x = x.iter().map(centroid).collect();
        }
        x
    }

    fn loss(&self, p: &Parameters, seed: u64) -> f64 {
        let x = self.points(p);
        let margin = f64::from(self.net.margin);
        let hinge = |scores: &[f64], target: usize| {
            scores.iter().map(|s| (margin - scores[target] + s).max(0.0)).sum::<f64>() / scores.len() as f64
        };
        let count = self.pairs.len() / 2;
        let Task::Classes(classes) = self.net.task else {
            let drawn = pairs(&Progress { seed, ..Progress::default() }, 0, self.graph.nodes, count);
            let linked = |a: u32, b: u32| self.graph.edges.iter().any(|e| *e == [a, b] || *e == [b, a]);
            let score = |a: u32, b: u32| -squared_distance(&x[a as usize], &x[b as usize]);
            let of = |(pair, &(a, b)): (&[u32], &(u32, u32))| match a == b || linked(a, b) {
                true => 0.0,
                false => hinge(&[score(pair[0], pair[1]), score(a, b)], 0),
            };
            return self.pairs.chunks(2).zip(&drawn).map(of).sum::<f64>() / count as f64;
        };
        let of = |pair: &[u32]| {
            let h = &x[pair[0] as usize];
            let score = |c: usize| {
                let bias = p["classes.bias"][c];
                match self.net.geometry {
                    Geometry::Lorentz => 2.0 * inner(h, &p["classes.points"][c * WIDTH..(c + 1) * WIDTH]) + bias,
                    Geometry::Euclidean => h.iter().zip(&p["classes.weight"][c * WIDTH..]).map(|(a, b)| a * b).sum::<f64>() + bias,
                }
            };
            let scores: Vec<f64> = (0..classes).map(score).collect();
            match self.net.geometry {
                Geometry::Lorentz => hinge(&scores, pair[1] as usize),
                Geometry::Euclidean => scores.iter().map(|s| s.exp()).sum::<f64>().ln() - scores[pair[1] as usize],
            }
        };
        self.pairs.chunks(2).map(of).sum::<f64>() / count as f64
    }
}

fn parameters(t: &Trainer) -> Parameters {
    let c = context();
    let value = |id| c.block_on(t.values(id)).unwrap().into_iter().map(f64::from).collect();
    t.ids().into_iter().map(|(name, id)| (name, value(id))).collect()
}

fn relative(got: &[f64], want: &[f64]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied()).max(1e-12)
}

fn gradient(t: &Trainer, name: &str) -> Vec<f64> {
    let c = context();
    c.block_on(t.gradient(t.ids()[name])).unwrap().unwrap().into_iter().map(f64::from).collect()
}

/// Every gradient against central differences of the f64 model. 1e-5: what f32 leaves of sums over a few dozen nodes, whose
/// coordinates are up to 10 times their differences.
#[test]
fn gradients_are_those_of_the_model_in_f64() {
    let c = context();
    for (task, geometry) in
        [(Task::Classes(3), Geometry::Lorentz), (Task::Links, Geometry::Lorentz), (Task::Classes(3), Geometry::Euclidean)]
    {
        let case = case(task, geometry);
        let mut t = case.trainer(Method::Full, 11);
        let p = parameters(&t);
        c.block_on(t.submit_step()).unwrap();
        let (loss, want) = (f64::from(c.block_on(t.reports()).unwrap()[0].loss), case.loss(&p, 11));
        assert!((loss - want).abs() <= 1e-5 * want, "{task:?} {geometry:?}: loss {loss} where {want} is expected");
        for (name, values) in &p {
            let difference = |i: usize| {
                let at = |h: f64| {
                    let mut moved = p.clone();
                    moved.get_mut(name).unwrap()[i] += h;
                    case.loss(&moved, 11)
                };
                (at(1e-5) - at(-1e-5)) / 2e-5
            };
            let want: Vec<f64> = (0..values.len()).map(difference).collect();
            let off = relative(&gradient(&t, name), &want);
            // A scale's is one number, the sum of the nodes' contributions of either sign.
            let most = if name.ends_with(".scale") { 1e-4 } else { 1e-5 };
            assert!(off <= most && want.iter().any(|v| *v != 0.0), "{task:?} {geometry:?} {name}: relative {off:e}");
        }
    }
}

/// With sparse and with dense inputs: each method's gradients follow from the whole weight's gradient G at the same weights.
#[test]
fn gradients_of_methods_follow_from_the_whole_gradient() {
    let c = context();
    let case = case(Task::Links, Geometry::Lorentz);
    let stepped = |method| {
        let mut t = case.trainer(method, 3);
        let before = parameters(&t);
        c.block_on(t.submit_step()).unwrap();
        c.block_on(t.reports()).unwrap();
        (t, before)
    };
    let (full, _) = stepped(Method::Full);
    let r = 2;
    let (sst, spectral) = stepped(Method::Sst(Sst { rank: r, ..Sst::default() }));
    let (lora, factors) = stepped(Method::Lora { rank: r, scale: 1.5 });
    for i in 0..2 {
        let name = format!("layers.{i}.linear");
        let g = gradient(&full, &format!("{name}.weight"));
        let n = g.len() / WIDTH;
        let k = WIDTH.min(n);
        let (ut, vt) = (&spectral[&format!("{name}.u")], &spectral[&format!("{name}.v")]);
        let g_v = |v: &[f64]| (0..WIDTH).map(|o| g[o * n..(o + 1) * n].iter().zip(v).map(|(g, v)| g * v).sum::<f64>()).collect::<Vec<_>>();
        let want: Vec<f64> = (0..k).map(|j| g_v(&vt[j * n..(j + 1) * n]).iter().zip(&ut[j * WIDTH..]).map(|(a, u)| a * u).sum()).collect();
        let off = relative(&gradient(&sst, &format!("{name}.sigma")), &want);
        assert!(off <= 1e-4, "{name} sigma: relative {off:e}");
        // Every active row of the gradient of Uᵀ is G v of some v: which ones were drawn is not asked.
        let rows = gradient(&sst, &format!("{name}.u"));
        for row in rows.chunks(WIDTH) {
            let near = (0..k).map(|j| relative(row, &g_v(&vt[j * n..(j + 1) * n]))).fold(f64::INFINITY, f64::min);
            assert!(near <= 1e-4, "{name} u: relative {near:e}");
        }
        let a = &factors[&format!("{name}.lora_a")];
        let rows = (0..WIDTH).flat_map(|o| (0..r).map(move |j| (o, j)));
        let product = |(o, j): (usize, usize)| 1.5 * (0..n).map(|e| g[o * n + e] * a[j * n + e]).sum::<f64>();
        let off = relative(&gradient(&lora, &format!("{name}.lora_b")), &rows.map(product).collect::<Vec<_>>());
        assert!(off <= 1e-4, "{name} lora_b: relative {off:e}");
    }
}

/// After 1,000 steps the nodes' points and the classes' are still on the manifold, and the nodes' those of the model in f64.
#[test]
fn points_stay_on_the_manifold() {
    let c = context();
    let sst = Method::Sst(Sst { rank: 1, steps: 100, warmup: 100, iterations: 4, ..Sst::default() });
    for (task, method) in [(Task::Links, sst), (Task::Classes(3), Method::Full)] {
        let case = case(task, Geometry::Lorentz);
        let mut t = case.trainer(method, 5);
        let n = case.graph.nodes as u32;
        let graph = GraphData { adjacency: case.adjacency.clone(), features: case.features.clone(), rows: GraphRows::Pairs };
        let tokens: Vec<u32> = (0..n).flat_map(|i| [i, i, i, (i + 1) % n]).collect();
        let starts = (0..tokens.len() as u32).step_by(2).collect();
        t.score_on(&Data { tokens, starts, graph: Some(graph), ..Data::default() }).unwrap_or_else(|e| assert!(task != Task::Links, "{e}"));
        for _ in 0..1000 {
            c.block_on(t.submit_step()).unwrap();
            if t.step().is_multiple_of(200) {
                c.block_on(t.reports()).unwrap();
            }
        }
        if let Task::Classes(_) = task {
            for point in parameters(&t)["classes.points"].chunks(WIDTH) {
                assert!((inner(point, point) + 1.0).abs() <= 1e-4 * point[0] * point[0], "{point:?}");
            }
            continue;
        }
        for pair in c.block_on(t.scores()).unwrap().chunks(2) {
            // <x,x>_L is a difference of numbers of the size of x_0^2, which the farthest of two points is less than e^d of.
            let size = 1.0 + 2.0 * f64::from(-pair[1]).abs();
            assert!(f64::from(pair[0]).abs() <= 1e-4 * size.max(200.0), "{pair:?}");
        }
        assert_eq!(t.re_svds(), 2);
    }
}
