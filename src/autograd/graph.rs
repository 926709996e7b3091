//! Graphs and points of the Lorentz model: aggregation, the maps of hyperbolic layers, margin losses.

use super::input::Input;
use super::{Tape, Var};
use crate::kernel::dropout::dropout;
use crate::kernel::edges::{Pairs, edge_scores};
use crate::kernel::hinge::{Hinge, hinge};
use crate::kernel::lorentz::{Map, lorentz, lorentz_backward};
use crate::kernel::negatives::{Negatives, draw_negatives, incidence};
use crate::kernel::select::select_columns;
use crate::kernel::spmm::{Spmm, spmm};
use crate::plan::SlotId;
use crate::tensor::{Sparse, SparsePair, Tensor};
use crate::{Error, Result, kernel};

/// Pairs that are linked, and others drawn anew each step, one for each of them.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    /// The linked pairs.
    pub positives: Pairs,
    /// Each node's linked nodes; the entries are places in a `pairs x 2` matrix: twice the pair's number.
    pub neighbours: Sparse,
    /// How the others are drawn.
    pub negatives: Negatives,
    /// `nodes + 1` words: multiples of [`Negatives::width`].
    pub places: SlotId,
    /// What a linked pair's score must be above the other's.
    pub margin: f32,
    /// A word: what each pair's loss counts.
    pub scale: (SlotId, usize),
}

impl Tape {
    /// A constant of sparse rows, which only linear layers read.
    pub fn sparse(&mut self, pair: SparsePair) -> Var {
        let m = pair.matrix;
        let v = self.var(Tensor { slot: m.values.0, offset: 0, rows: m.rows, cols: m.cols, stride: 0 }, true);
        self.sparse.insert(v, pair);
        v
    }

    pub(super) fn input(&self, v: Var) -> Input {
        self.sparse.get(&v).map_or_else(|| Input::Dense(self.tensor(v)), |p| Input::Sparse(*p))
    }

    /// [`Tape::dropout`] of the entries of a constant of sparse rows: what is 0 stays so.
    ///
    /// # Errors
    /// [`Error::Shape`] for a p outside of 0..1, or a dense value.
    pub fn sparse_dropout(&mut self, label: &str, x: Var, p: f32, progress: SlotId, stream: u32) -> Result<Var> {
        if p == 0.0 || !self.training {
            return Ok(x);
        }
        let Some(pair) = self.sparse.get(&x).copied() else {
            return Err(Error::shape("dropout", format!("{label}: not a sparse value")));
        };
        let (slot, offset, len) = pair.matrix.values;
        let from = Tensor { slot, offset, rows: 1, cols: len, stride: len };
        let to = self.builder.transient(label, 1, len);
        dropout(&mut self.builder, label, &from, &to, p, progress, stream)?;
        Ok(self.sparse(pair.with_values((to.slot, to.offset))))
    }

    /// `Y = A X` with a constant sparse A: sums over a node's neighbours, or picked rows.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Limit`].
    pub fn aggregate(&mut self, label: &str, a: &SparsePair, x: Var) -> Result<Var> {
        let xt = self.tensor(x);
        let (y, yt) = self.output(label, a.matrix.rows, xt.cols);
        spmm(&mut self.builder, label, &a.matrix, &xt, &yt, &Spmm::default())?;
        let (transpose, label) = (a.transpose, format!("{label} gradient"));
        self.record(move |tape| {
            let Some(dy) = tape.take(y) else { return Ok(()) };
            tape.contribute(x, |b, dx, accumulate| spmm(b, &label, &transpose, &dy, dx, &Spmm { accumulate, ..Spmm::default() }))
        });
        Ok(y)
    }

    /// A map of each row's `heads` vectors to points of the Lorentz model, or back. `scale`: the gradient of the scale of
    /// [`Map::Rescale`], one word.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Limit`].
    pub fn lorentz(&mut self, label: &str, map: Map, heads: usize, x: Var, scale: Option<Tensor>) -> Result<Var> {
        let xt = self.tensor(x);
        let (y, yt) = self.output(label, xt.rows, xt.cols);
        lorentz(&mut self.builder, label, &map, heads, &xt, &yt)?;
        let label = format!("{label} gradient");
        self.record(move |tape| {
            let Some(dy) = tape.take(y) else { return Ok(()) };
            let dx = tape.builder.transient("gradient", xt.rows, xt.cols);
            let ds = matches!(map, Map::Rescale { .. }).then(|| tape.builder.transient("scale gradients", xt.rows, heads));
            lorentz_backward(&mut tape.builder, &label, &map, heads, &xt, &dy, &dx, ds.as_ref())?;
            if let (Some(ds), Some(g)) = (ds, scale) {
                let adds = tape.target(&g);
                // One column: the points of all heads share the scale.
                let column = Tensor { rows: ds.rows * ds.cols, cols: 1, stride: 1, ..ds };
                kernel::columns::column_sums(&mut tape.builder, &label, &kernel::columns::Columns::Sum(&column), &g, adds)?;
            }
            tape.pass(x, dx)
        });
        Ok(y)
    }

    /// `y[r, c] = x[r, c] f[c]`: constant factors, and the numbers `0..cols` that pick the columns.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Limit`].
    pub fn scale_columns(&mut self, label: &str, x: Var, numbers: SlotId, factors: SlotId) -> Result<Var> {
        let xt = self.tensor(x);
        let (y, yt) = self.output(label, xt.rows, xt.cols);
        select_columns(&mut self.builder, label, &xt, (numbers, 0), Some((factors, 0)), &yt)?;
        let label = format!("{label} gradient");
        self.elementwise(x, y, move |b, dy, dx| select_columns(b, &label, dy, (numbers, 0), Some((factors, 0)), dx));
        Ok(y)
    }

    /// Margin losses of rows of scores against the targets' ([`hinge`]), a row of one value each; x is overwritten by its gradient when
    /// recording.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Limit`].
    pub fn margin_loss(&mut self, label: &str, x: Var, targets: SlotId, scale: (SlotId, usize), margin: f32) -> Result<Tensor> {
        let scores = self.tensor(x);
        let losses = self.builder.transient(format!("{label} losses"), 1, scores.rows);
        let h = Hinge { scores: &scores, targets: (targets, 0), losses: &losses, scale, margin, gradient: self.recording };
        hinge(&mut self.builder, label, &h)?;
        if self.recording {
            self.pass(x, scores)?;
        }
        Ok(losses)
    }

    /// Margin losses of linked pairs of the points h against drawn ones, a row of one value each.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Limit`].
    pub fn link_loss(&mut self, label: &str, h: Var, l: &Links) -> Result<Tensor> {
        let (ht, count, gradient) = (self.tensor(h), l.positives.count, self.recording);
        let b = &mut self.builder;
        let scores = b.transient(format!("{label} scores"), count, 2);
        let [from, to, targets] = ["from", "to", "targets"].map(|s| b.transient(format!("{label} {s}"), 1, count).slot);
        draw_negatives(b, label, &l.negatives, from, to, targets)?;
        edge_scores(b, label, &ht, &l.positives, &scores.slice_cols(0..1))?;
        edge_scores(b, label, &ht, &Pairs { from: (from, 0), to: (to, 0), count }, &scores.slice_cols(1..2))?;
        let losses = b.transient(format!("{label} losses"), 1, count);
        hinge(b, label, &Hinge { scores: &scores, targets: (targets, 0), losses: &losses, scale: l.scale, margin: l.margin, gradient })?;
        let (l, label) = (*l, format!("{label} gradient"));
        self.record(move |tape| {
            tape.contribute(h, |b, dh, accumulate| {
                // Each pair gives 2 J h of its other node to a node, times its score's gradient: a sparse product.
                let p = Spmm { alpha: 2.0, flip: true, accumulate, ..Spmm::default() };
                let values = (scores.slot, scores.offset, 2 * count);
                spmm(b, &label, &Sparse { values, ..l.neighbours }, &ht, dh, &p)?;
                let (nodes, width) = (l.negatives.nodes, l.negatives.width());
                let [columns, entries] = ["others", "places"].map(|s| b.transient(s, nodes, width).slot);
                incidence(b, &label, &l.negatives, (from, to, targets), columns, entries, (2, 1))?;
                let drawn = Sparse {
                    rows: nodes,
                    cols: nodes,
                    len: nodes * width,
                    longest: width,
                    offsets: l.places,
                    columns,
                    values,
                    entries: Some(entries),
                };
                spmm(b, &label, &drawn, &ht, dh, &Spmm { accumulate: true, ..p })
            })
        });
        Ok(losses)
    }
}
