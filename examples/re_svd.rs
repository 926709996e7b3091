//! Times what training does every few hundred steps: all linear layers of an OPT-125M, whose singular vectors have drifted, are
//! decomposed anew, the layers of a shape in one batch, beside faer on this machine's cores:
//! `cargo run --release --example re_svd [-- BLOCKS]` (12 blocks: 72 matrices).

use etalon::gpu::Buffer;
use etalon::linalg::{Factors, Options, Place, Scratch, Svd};
use etalon::{Context, ContextOptions};
use faer::{Mat, Par};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::time::Instant;

type Failed = Box<dyn std::error::Error>;

/// Outputs, inputs, matrices of that shape in a block.
const SHAPES: [(usize, usize, usize); 3] = [(768, 768, 4), (3072, 768, 1), (768, 3072, 1)];
/// Vectors of each side that were trained since the last decomposition, and how far: the length of what was added to a unit vector.
const RANK: usize = 64;
const DRIFT: f32 = 0.3;

/// Matrices of one shape: their factors on the device, and what they are to be set to before each decomposition.
struct Batch {
    shape: (usize, usize),
    layers: Vec<Factors>,
    drifted: Vec<[Vec<f32>; 3]>,
}

impl Batch {
    fn new(context: &Context, shape: (usize, usize), count: usize) -> Result<Self, Failed> {
        let (m, n) = shape;
        let k = m.min(n);
        let store = |words: usize| Ok::<_, Failed>(Place { buffer: context.storage("factors", 4 * words as u64)?, offset: 0 });
        let layer =
            |i| Ok::<_, Failed>(Factors { name: format!("{m} x {n}, {i}"), ut: store(k * m)?, sigma: store(k)?, vt: store(k * n)? });
        Ok(Self { shape, layers: (0..count).map(layer).collect::<Result<_, _>>()?, drifted: Vec::new() })
    }

    /// Decomposes random matrices; returns the seconds.
    fn draw(&self, context: &Context, scratch: &Scratch, rng: &mut StdRng) -> Result<f64, Failed> {
        let (m, n) = self.shape;
        let place = |_| {
            let words: Vec<u32> = (0..m * n).map(|_| rng.random_range(-0.05f32..0.05).to_bits()).collect();
            Ok::<_, Failed>(Place { buffer: context.upload("W", &words)?, offset: 0 })
        };
        let dense = self.layers.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let svd = Svd::of_matrices(context, &dense, self.shape, &self.layers, &Options::default(), Some(scratch))?;
        let began = Instant::now();
        context.block_on(svd.run())?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// Lets vectors and values drift, as training does.
    fn drift(&mut self, context: &Context, rng: &mut StdRng) -> Result<(), Failed> {
        let (m, n) = self.shape;
        for f in &self.layers {
            let [mut ut, mut sigma, mut vt] = [read(context, &f.ut.buffer)?, read(context, &f.sigma.buffer)?, read(context, &f.vt.buffer)?];
            for row in rand::seq::index::sample(rng, sigma.len(), RANK) {
                for side in [&mut ut[row * m..][..m], &mut vt[row * n..][..n]] {
                    // Uniform in +-a has variance a^2 / 3.
                    let a = DRIFT * (3.0 / side.len() as f32).sqrt();
                    side.iter_mut().for_each(|x| *x += rng.random_range(-a..a));
                    let norm = side.iter().map(|x| x * x).sum::<f32>().sqrt();
                    side.iter_mut().for_each(|x| *x /= norm);
                }
            }
            sigma.iter_mut().for_each(|s| *s *= rng.random_range(0.9..1.1));
            self.drifted.push([ut, sigma, vt]);
        }
        Ok(())
    }

    fn set(&self, context: &Context) -> Result<(), Failed> {
        for (f, [ut, sigma, vt]) in self.layers.iter().zip(&self.drifted) {
            for (place, values) in [(&f.ut, ut), (&f.sigma, sigma), (&f.vt, vt)] {
                context.write(&place.buffer, 0, bytemuck::cast_slice(values))?;
            }
        }
        Ok(())
    }

    /// The matrices `U diag(sigma) Vᵀ`.
    fn dense(&self) -> Vec<Mat<f32>> {
        let (m, n) = self.shape;
        let whole = |[ut, sigma, vt]: &[Vec<f32>; 3]| {
            let u = Mat::from_fn(m, sigma.len(), |r, c| ut[c * m + r] * sigma[c]);
            u * Mat::from_fn(sigma.len(), n, |r, c| vt[r * n + c])
        };
        self.drifted.iter().map(whole).collect()
    }
}

fn read(context: &Context, buffer: &Buffer) -> Result<Vec<f32>, Failed> {
    let words = context.block_on(context.read_ranges(&[(buffer, 0..buffer.size())])?.words())?.remove(0);
    Ok(words.into_iter().map(f32::from_bits).collect())
}

/// Singular values by faer, with the parallelism it is given.
fn values(w: &Mat<f32>, par: Par) -> Vec<f32> {
    faer::set_global_parallelism(par);
    w.thin_svd().map_or_else(|_| Vec::new(), |svd| svd.S().column_vector().iter().copied().collect())
}

/// Seconds by faer: one matrix after another on all cores, and as many at once as there are cores, one core each.
fn faer(matrices: &[&Mat<f32>]) -> ([f64; 2], Vec<Vec<f32>>) {
    let began = Instant::now();
    let found = matrices.iter().map(|w| values(w, Par::rayon(0))).collect();
    let one = began.elapsed().as_secs_f64();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|s| {
        for _ in 0..cores {
            s.spawn(|| {
                while let Some(w) = matrices.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    std::hint::black_box(values(w, Par::Seq));
                }
            });
        }
    });
    ([one, began.elapsed().as_secs_f64()], found)
}

fn main() -> Result<(), Failed> {
    let blocks: usize = std::env::args().nth(1).map_or(Ok(12), |a| a.parse())?;
    let context = pollster::block_on(Context::new(&ContextOptions::default()))?;
    println!("{}", context.facts().summary());
    let mut rng = StdRng::seed_from_u64(1);
    let mut batches = Vec::new();
    for (m, n, count) in SHAPES {
        batches.push(Batch::new(&context, (m, n), count * blocks)?);
    }
    // Decompositions of different shapes do not run at the same time.
    let sizes: Vec<_> = batches.iter().map(|b| etalon::kernel::svd::Size::new(b.layers.len(), b.shape.0, b.shape.1)).collect();
    let scratch = Scratch::new(&context, &sizes)?;
    for b in &mut batches {
        let seconds = b.draw(&context, &scratch, &mut rng)?;
        println!("{} matrices of {} x {}, random: {seconds:.2} s", b.layers.len(), b.shape.0, b.shape.1);
        b.drift(&context, &mut rng)?;
    }
    let make = |b: &Batch| Svd::of_factors(&context, &b.layers, b.shape.0, b.shape.1, &Options::default(), Some(&scratch));
    let svds = batches.iter().map(make).collect::<Result<Vec<_>, _>>()?;
    let mut seconds = Vec::new();
    for _ in 0..5 {
        batches.iter().try_for_each(|b| b.set(&context))?;
        // A read waits for the copies, which are not part of it.
        read(&context, &batches[0].layers[0].sigma.buffer)?;
        let began = Instant::now();
        for svd in &svds {
            let report = context.block_on(svd.run())?;
            let most = |f: fn(&etalon::linalg::LayerReport) -> u32| report.layers.iter().map(f).max().unwrap_or(0);
            eprintln!(
                "at most {} steps to the polar factor, {} sweeps, {:.2} s",
                most(|l| l.steps),
                most(|l| l.sweeps),
                began.elapsed().as_secs_f64()
            );
        }
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let dense: Vec<Vec<Mat<f32>>> = batches.iter().map(Batch::dense).collect();
    let ([one, each], found) = faer(&dense.iter().flatten().collect::<Vec<_>>());
    let mut off = 0.0f32;
    for (f, want) in batches.iter().flat_map(|b| &b.layers).zip(&found) {
        let got = read(&context, &f.sigma.buffer)?;
        off = got.iter().zip(want).map(|(a, b)| (a - b).abs() / want[0]).fold(off, f32::max);
    }
    let best = one.min(each);
    println!("{} matrices, {RANK} vectors of each side drifted by {DRIFT}", found.len());
    println!("etalon {median:.2} s (of {seconds:.2?}); faer {one:.2} s one matrix after another, {each:.2} s one on each core");
    println!("faer / etalon {:.2}; singular values differ by {off:.1e} of the largest at most", best / median);
    Ok(())
}
