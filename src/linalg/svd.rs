//! Singular value decompositions on the device, of many matrices of one shape side by side.

use crate::gpu::{Buffer, Context};
use crate::kernel::jacobi::sweep;
use crate::kernel::polar;
use crate::kernel::svd::{self, Dense, Side, Size, Source, Work};
use crate::plan::{Bound, Builder, SlotId};
use crate::{Error, Result};
use std::sync::Arc;

/// Where a matrix or vector of f32 begins, dense row after row; several may lie in one buffer.
#[derive(Debug, Clone)]
pub struct Place {
    /// The buffer.
    pub buffer: Arc<Buffer>,
    /// Words before the first entry, a multiple of 64.
    pub offset: usize,
}

/// The factors of one matrix `W = U diag(sigma) Vᵀ` of `m x n`, `k = min(m, n)`, singular vectors as rows.
#[derive(Debug, Clone)]
pub struct Factors {
    /// For messages.
    pub name: String,
    /// Left singular vectors, `k x m`.
    pub ut: Place,
    /// Singular values, `k`.
    pub sigma: Place,
    /// Right singular vectors, `k x n`.
    pub vt: Place,
}

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Most sweeps of each stage.
    pub sweeps: usize,
    /// Largest cosine between two singular vectors.
    pub tolerance: f32,
}

impl Default for Options {
    /// 30 sweeps, 4e-6: some times what f32 resolves of the cosine of two vectors with thousands of entries.
    fn default() -> Self {
        Self { sweeps: 30, tolerance: 4e-6 }
    }
}

/// What a run found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// One entry for each matrix.
    pub layers: Vec<LayerReport>,
}

/// What a run found of one matrix.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerReport {
    /// Its name.
    pub name: String,
    /// For factors: how far the vectors of the square side, brought to unit length, were from orthonormal: `max |A Aᵀ - I|`.
    pub drift: f32,
    /// Steps to the polar factor; 0 where the rows were too dependent for it, so that they were turned instead.
    pub steps: u32,
    /// Sweeps of rotations that turned something.
    pub sweeps: u32,
    /// Rows that counted as zero and got a direction that was free.
    pub completed: u32,
}

/// Buffers that decompositions work in. One serves any number of [`Svd`] of the sizes it was made for, if they do not run at the
/// same time.
#[derive(Debug, Clone)]
pub struct Scratch(pub(super) Vec<Arc<Buffer>>);

impl Scratch {
    fn words(sizes: &[Size]) -> [usize; 8] {
        sizes.iter().map(Size::words).fold([0; 8], |a, b| std::array::from_fn(|i| a[i].max(b[i])))
    }

    /// Bytes that [`Scratch::new`] would take.
    pub fn bytes(sizes: &[Size]) -> u64 {
        Self::words(sizes).iter().map(|w| (4 * *w as u64).max(4).next_multiple_of(256)).sum()
    }

    /// Allocates scratch that is large enough for each of `sizes`.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::OutOfMemory`].
    pub fn new(context: &Context, sizes: &[Size]) -> Result<Self> {
        let buffers = Self::words(sizes).into_iter().map(|w| context.storage("svd scratch", 4 * w as u64));
        Ok(Self(buffers.collect::<Result<_>>()?))
    }
}

/// Decompositions of matrices of one shape: plans bound once, run any number of times.
///
/// A product `Xᵀ Y` is kept while the rows of X and Y change, until those of X and of Y are orthogonal.
///
/// Factors: `X = Uᵀ` and `Y = diag(sigma) Vᵀ`, or where U is the longer `X = diag(sigma) Uᵀ` and `Y = Vᵀ`. The side without sigma
/// has square matrices. Their rows go to the nearest orthonormal ones (the polar factor, which leaves the other side's rows almost
/// as orthogonal as they were); where they are too dependent for that, rotations make them orthogonal. Then rotations of both
/// sides (block Jacobi) make the other side's rows orthogonal, whose norms are the singular values.
///
/// A dense W: `X = Wᵀ` and `Y = I` where `m >= n`, else `X = I` and `Y = W`, and rotations.
///
/// Singular values come out falling, with the first entry of largest magnitude in each left vector positive; where they are zero,
/// the vectors are some that complete the others. Equal inputs give equal bits on one adapter.
#[derive(Debug)]
pub struct Svd {
    pub(super) context: Context,
    pub(super) names: Vec<String>,
    pub(super) size: Size,
    pub(super) options: Options,
    /// Sources of each layer that are measured.
    pub(super) parts: &'static [&'static str],
    /// Which of them each side's scale comes from.
    pub(super) scaled_by: [&'static [usize]; 2],
    pub(super) scratch: Scratch,
    pub(super) measure: Bound,
    pub(super) load: Bound,
    pub(super) polar: Option<Polar>,
    /// The square side of factors, if they are too dependent; then the side whose norms are the singular values.
    pub(super) stages: Vec<Stage>,
    pub(super) commit: Bound,
}

/// Makes the rows of the square side orthonormal.
#[derive(Debug)]
pub(super) struct Polar {
    /// Unit length, which the other side makes up for; and keeps the rows.
    pub(super) prepare: Bound,
    /// For each layer: a step, what the other side needs after the last, and going back.
    pub(super) layers: Vec<[Bound; 3]>,
}

/// Makes the rows of one side orthogonal by rotations.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) sweep: Bound,
    /// Norms, and rows divided by them.
    pub(super) finish: Bound,
    /// A direction for one row of each layer that has none.
    pub(super) complete: Bound,
    /// The other side takes the norms.
    pub(super) pass_on: Option<Bound>,
}

/// A plan under construction: slots of buffers, each once.
struct Draft {
    b: Builder,
    work: Work,
    bound: Vec<(SlotId, Arc<Buffer>)>,
}

impl Draft {
    fn new(context: &Context, label: &str, size: Size, scratch: &Scratch) -> Self {
        let mut b = Builder::new(label, context.facts());
        let work = Work::new(&mut b, size);
        let bound = work.slots().into_iter().zip(scratch.0.iter().cloned()).collect();
        Self { b, work, bound }
    }

    fn dense(&mut self, place: &Place, rows: usize, cols: usize) -> Dense {
        let known = self.bound.iter().find(|(_, b)| Arc::ptr_eq(b, &place.buffer)).map(|(slot, _)| *slot);
        let slot = known.unwrap_or_else(|| {
            let slot = self.b.external("factors", (place.buffer.size() / 256 * 64) as usize);
            self.bound.push((slot, place.buffer.clone()));
            slot
        });
        Dense { slot, offset: place.offset, rows, cols }
    }

    fn bind(self, context: &Context) -> Result<Bound> {
        Arc::new(self.b.finish()?).bind(context, &self.bound)
    }
}

const FACTORS: [&str; 3] = ["Ut", "sigma", "Vt"];

impl Svd {
    /// Decompositions of `W = U diag(sigma) Vᵀ` whose factors have drifted from orthogonality: the factors are replaced, W stays.
    /// Factors need neither be orthogonal nor of unit length, nor sigma sorted or positive.
    ///
    /// Without `scratch` it allocates its own.
    ///
    /// # Errors
    /// [`Error::Shape`] for an empty shape or a place at an odd offset; [`Error::Limit`] where one matrix exceeds a binding;
    /// [`Error::Plan`] where a place lies outside of its buffer; [`Error::OutOfMemory`].
    pub fn of_factors(
        context: &Context,
        layers: &[Factors],
        m: usize,
        n: usize,
        options: &Options,
        scratch: Option<&Scratch>,
    ) -> Result<Self> {
        let k = m.min(n);
        let sources = |d: &mut Draft, i: usize| {
            let f = &layers[i];
            vec![d.dense(&f.ut, k, m), d.dense(&f.sigma, 1, k), d.dense(&f.vt, k, n)]
        };
        let kinds = |s: &[Dense]| match m <= n {
            true => [Source::Rows(s[0]), Source::Times(s[2], s[1])],
            false => [Source::Times(s[0], s[1]), Source::Rows(s[2])],
        };
        let scaled_by: [&[usize]; 2] = if m <= n { [&[0], &[1, 2]] } else { [&[0, 1], &[2]] };
        Self::make(context, layers, (m, n), (options, scratch), &Origin { parts: &FACTORS, scaled_by, sources: &sources, kinds: &kinds })
    }

    /// Decompositions of dense matrices, `m x n` each, into factors that lie in `out`, which may overlap them.
    ///
    /// # Errors
    /// As [`Svd::of_factors`]; [`Error::Shape`] where there are not as many factors as matrices.
    pub fn of_matrices(
        context: &Context,
        matrices: &[Place],
        (m, n): (usize, usize),
        out: &[Factors],
        options: &Options,
        scratch: Option<&Scratch>,
    ) -> Result<Self> {
        if matrices.len() != out.len() {
            return Err(Error::shape("svd", format!("{} matrices into {} factors", matrices.len(), out.len())));
        }
        let sources = |d: &mut Draft, i: usize| vec![d.dense(&matrices[i], m, n)];
        let kinds = |s: &[Dense]| {
            if m >= n { [Source::Columns(s[0]), Source::Identity] } else { [Source::Identity, Source::Rows(s[0])] }
        };
        let scaled_by: [&[usize]; 2] = if m >= n { [&[0], &[]] } else { [&[], &[0]] };
        Self::make(context, out, (m, n), (options, scratch), &Origin { parts: &["W"], scaled_by, sources: &sources, kinds: &kinds })
    }

    fn make(
        context: &Context,
        out: &[Factors],
        (m, n): (usize, usize),
        (options, scratch): (&Options, Option<&Scratch>),
        origin: &Origin<'_>,
    ) -> Result<Self> {
        let size = Size::new(out.len(), m, n);
        if m == 0 || n == 0 || out.is_empty() {
            return Err(Error::shape("svd", format!("{} matrices of {m} x {n}", out.len())));
        }
        for f in out {
            if [&f.ut, &f.sigma, &f.vt].iter().any(|p| !p.offset.is_multiple_of(64)) {
                return Err(Error::shape("svd", format!("{}: factors begin at multiples of 64 words", f.name)));
            }
        }
        let names: Vec<String> = out.iter().map(|f| f.name.clone()).collect();
        let scratch = scratch.cloned().map_or_else(|| Scratch::new(context, &[size]), Ok)?;
        let draft = |label: &str| Draft::new(context, label, size, &scratch);
        let [measure, load] = origin.plans(&draft, &names)?.map(|d| d.bind(context));
        let commit = commit(draft("svd commit"), out)?.bind(context);
        let factors = origin.parts.len() > 1;
        let last = if factors {
            size.square().other()
        } else if m >= n {
            Side::X
        } else {
            Side::Y
        };
        let polar = factors.then(|| Polar::new(context, &draft, size.square(), &names)).transpose()?;
        let first = factors.then(|| Stage::new(context, &draft, last.other(), true, options));
        let stages = first.into_iter().chain([Stage::new(context, &draft, last, false, options)]).collect::<Result<_>>()?;
        let (measure, load, commit) = (measure?, load?, commit?);
        let (context, options, Origin { parts, scaled_by, .. }) = (context.clone(), *options, origin);
        let (parts, scaled_by) = (*parts, *scaled_by);
        Ok(Self { context, names, size, options, parts, scaled_by, scratch, measure, load, polar, stages, commit })
    }

    /// What [`Scratch::bytes`] needs to know.
    pub fn size(&self) -> Size {
        self.size
    }
}

/// Where the matrices come from.
struct Origin<'a> {
    parts: &'static [&'static str],
    scaled_by: [&'static [usize]; 2],
    /// The parts of a layer in a plan.
    sources: &'a dyn Fn(&mut Draft, usize) -> Vec<Dense>,
    /// What X and Y are made from them.
    kinds: &'a dyn Fn(&[Dense]) -> [Source; 2],
}

impl Origin<'_> {
    /// Measuring and loading.
    fn plans(&self, draft: &dyn Fn(&str) -> Draft, names: &[String]) -> Result<[Draft; 2]> {
        let (mut measure, mut load) = (draft("svd measure"), draft("svd load"));
        for (i, name) in names.iter().enumerate() {
            for (j, s) in (self.sources)(&mut measure, i).iter().enumerate() {
                svd::measure(&mut measure.b, name, s, &measure.work, names.len() + 3 * i + j)?;
            }
            let s = (self.sources)(&mut load, i);
            for (side, source) in [Side::X, Side::Y].into_iter().zip((self.kinds)(&s)) {
                svd::load(&mut load.b, name, &source, &load.work, side, i)?;
            }
        }
        Ok([measure, load])
    }
}

fn commit(mut d: Draft, out: &[Factors]) -> Result<Draft> {
    let Size { m, n, .. } = d.work.size;
    let k = d.work.size.k();
    svd::order(&mut d.b, "svd", &d.work)?;
    for (i, f) in out.iter().enumerate() {
        let (ut, vt, sigma) = (d.dense(&f.ut, k, m), d.dense(&f.vt, k, n), d.dense(&f.sigma, 1, k));
        svd::store(&mut d.b, &f.name, &ut, &d.work, Side::X, i)?;
        svd::store(&mut d.b, &f.name, &vt, &d.work, Side::Y, i)?;
        svd::store_values(&mut d.b, &f.name, &sigma, &d.work, i)?;
    }
    Ok(d)
}

/// A plan of one part of a decomposition.
fn bound(context: &Context, draft: &dyn Fn(&str) -> Draft, label: &str, fill: &dyn Fn(&mut Builder, &Work) -> Result<()>) -> Result<Bound> {
    let mut d = draft(label);
    fill(&mut d.b, &d.work)?;
    d.bind(context)
}

impl Polar {
    fn new(context: &Context, draft: &dyn Fn(&str) -> Draft, side: Side, names: &[String]) -> Result<Self> {
        let prepare = bound(context, draft, "svd unit length", &|b, w| {
            svd::norms(b, "square side", w, side)?;
            svd::normalise(b, "square side", w, side)?;
            svd::times_norms(b, "other side", w, side.other())?;
            names.iter().enumerate().try_for_each(|(i, name)| polar::keep(b, name, w, side, i))
        })?;
        let layer = |(i, name): (usize, &String)| {
            let at = names.len() + 3 * i;
            Ok([
                bound(context, draft, "svd polar step", &|b, w| polar::step(b, name, w, side, i, at))?,
                bound(context, draft, "svd polar transfer", &|b, w| polar::transfer(b, name, w, side, i))?,
                bound(context, draft, "svd restore", &|b, w| polar::restore(b, name, w, side, i))?,
            ])
        };
        Ok(Self { prepare, layers: names.iter().enumerate().map(layer).collect::<Result<_>>()? })
    }
}

impl Stage {
    fn new(context: &Context, draft: &dyn Fn(&str) -> Draft, side: Side, passes_on: bool, options: &Options) -> Result<Self> {
        let name = format!("{side:?}");
        let bound = |label: &str, fill: &dyn Fn(&mut Builder, &Work) -> Result<()>| bound(context, draft, label, fill);
        Ok(Self {
            sweep: bound("svd sweep", &|b, w| {
                svd::norms(b, &name, w, side)?;
                sweep(b, &name, w, side, options.tolerance)
            })?,
            finish: bound("svd norms", &|b, w| {
                svd::norms(b, &name, w, side)?;
                svd::normalise(b, &name, w, side)
            })?,
            complete: bound("svd complete", &|b, w| svd::complete(b, &name, w, side))?,
            pass_on: passes_on.then(|| bound("svd scale", &|b, w| svd::times_norms(b, &name, w, side.other()))).transpose()?,
        })
    }
}
