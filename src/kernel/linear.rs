//! Linear layers: `y = act(x Wᵀ + bias) + residual` for dense and quantised weights.

mod variant;

use variant::{Flags, grid, shape, variant};
pub(crate) use variant::{format_defines, variants};
pub use variant::{fuses_gate, fuses_norm};

use crate::plan::{Builder, OpSpec, SlotId, Window};
use crate::reference;
use crate::tensor::{Format, Matrix, Segment, Tensor};
use crate::{Error, Result};

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The identity.
    None,
    /// `max(x, 0)`
    Relu,
    /// `x/2 (1 + erf(x / sqrt 2))`
    GeluErf,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`
    GeluTanh,
    /// `x / (1 + exp(-x))`
    Silu,
    /// `tanh x`
    Tanh,
}

impl Activation {
    pub(crate) const ALL: [Self; 6] = [Self::None, Self::Relu, Self::GeluErf, Self::GeluTanh, Self::Silu, Self::Tanh];

    /// Its number in `shaders/common/activation.wgsl`.
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::None => 0,
            Self::Relu => 1,
            Self::GeluErf => 2,
            Self::GeluTanh => 3,
            Self::Silu => 4,
            Self::Tanh => 5,
        }
    }
}

/// What is fused with a product: a norm before it, the rest with its sums before they are stored.
#[derive(Debug, Clone, Copy)]
pub struct Fused {
    /// A slot with one f32 for each output, and the word of the first.
    pub bias: Option<(SlotId, usize)>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Added last.
    pub residual: Residual,
    /// RMSNorm of the rows of x before the product: a slot with the gain (one f32 an input) and eps,
    /// `x / sqrt(mean(x^2) + eps) * gain`. Only where [`fuses_norm`] says so.
    pub norm: Option<(SlotId, f32)>,
    /// The weight's first half of rows are gates `g`, its second half values `u`: `y = silu(g) u`, half as wide. Only
    /// where [`fuses_gate`] says so.
    pub gate: bool,
}

impl Default for Fused {
    fn default() -> Self {
        Self { bias: None, activation: Activation::None, residual: Residual::None, norm: None, gate: false }
    }
}

/// What is added to a linear layer's output.
#[derive(Debug, Clone, Copy)]
pub enum Residual {
    /// Nothing.
    None,
    /// Another tensor.
    Add(Tensor),
    /// What the output held before: `y += …`.
    InPlace,
}

/// The words that the table of a format takes in the parameters; none where it has no table.
pub(crate) fn table_words(format: &Format) -> Vec<u32> {
    match format {
        Format::Quant(q) => q.table.iter().flatten().map(|v| v.to_bits()).collect(),
        _ => Vec::new(),
    }
}

/// Appends `y = act(x Wᵀ + bias) + residual`: x is `m x k`, w `n x k`, y `m x n` (with [`Fused::gate`], `m x n/2`).
///
/// Quantised weights are decoded on the way and accumulated in f32. Each row segment of `w`, and each run of rows of x that fits
/// a binding, is an op of its own.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other; [`Error::Limit`].
pub fn linear(b: &mut Builder, label: &str, x: &Tensor, w: &Matrix, y: &Tensor, e: &Fused) -> Result<()> {
    let outputs = if e.gate { w.rows / 2 } else { w.rows };
    if x.cols != w.cols || y.cols != outputs || x.rows != y.rows {
        let (xr, xc, wr, wc, yr, yc) = (x.rows, x.cols, w.rows, w.cols, y.rows, y.cols);
        return Err(Error::shape("linear", format!("{label}: ({xr}, {xc}) times ({wr}, {wc})ᵀ into ({yr}, {yc})")));
    }
    if let Residual::Add(r) = &e.residual
        && (r.rows, r.cols) != (y.rows, y.cols)
    {
        return Err(Error::shape("linear", format!("{label}: residual ({}, {}) on ({}, {})", r.rows, r.cols, y.rows, y.cols)));
    }
    if e.gate && (w.segments.len() != 1 || !w.rows.is_multiple_of(2) || !fuses_gate(b.facts(), x.rows)) {
        return Err(Error::shape("linear", format!("{label}: the gate cannot be fused here")));
    }
    if e.norm.is_some() && !fuses_norm(b.facts(), x.rows) {
        return Err(Error::shape("linear", format!("{label}: the norm cannot be fused here")));
    }
    let widest = x.stride.max(y.stride);
    for rows in b.row_chunks(x.rows, widest)? {
        let (x, y) = (x.slice_rows(rows.clone()), y.slice_rows(rows.clone()));
        let e = Fused {
            residual: match e.residual {
                Residual::Add(r) => Residual::Add(r.slice_rows(rows)),
                other => other,
            },
            ..*e
        };
        for s in &w.segments {
            segment(b, label, &x, w, s, &y, &e)?;
        }
    }
    Ok(())
}

fn segment(b: &mut Builder, label: &str, x: &Tensor, w: &Matrix, s: &Segment, y: &Tensor, e: &Fused) -> Result<()> {
    let weight_rows = s.rows.len();
    let n = if e.gate { weight_rows / 2 } else { weight_rows };
    let first = if e.gate { 0 } else { s.rows.start };
    let (w_stride, s_stride) = (w.format.row_words(w.cols), w.format.scale_words(w.cols));
    let xw = b.view(x)?;
    let yw = b.view(&y.slice_cols(first..first + n))?;
    let mut bindings = vec![xw, data_window(b, w, s)?, yw];
    if let (Some(slot), Format::Quant(q)) = (s.scales, &w.format) {
        let words = if q.per_tensor { q.group_words(1, w.cols) } else { weight_rows * s_stride };
        bindings.push(b.window(slot, 0..words)?);
    }
    let mut offsets = [0, 0, 0];
    if let Some((slot, at)) = e.bias {
        let window = b.window(slot, at + first..at + first + n)?;
        offsets[0] = window.offset;
        bindings.push(window);
    }
    let residual = match &e.residual {
        Residual::None => 0,
        Residual::InPlace => 2,
        Residual::Add(r) => {
            let window = b.view(&r.slice_cols(first..first + n))?;
            (offsets[1], offsets[2]) = (window.offset, r.stride as u32);
            bindings.push(window);
            1
        }
    };
    let mut gain_offset = 0;
    if let Some((slot, _)) = e.norm {
        let window = b.window(slot, 0..w.cols)?;
        gain_offset = window.offset;
        bindings.push(window);
    }
    let x_vec4 = [x.stride, xw.offset as usize, gain_offset as usize, w.cols].iter().all(|n| n.is_multiple_of(4));
    let norm = e.norm.is_some();
    let flags = Flags { norm, gate: e.gate, bias: e.bias.is_some(), residual, activation: e.activation.code(), x_vec4 };
    let v = variant(b.facts(), shape(b.facts(), x.rows, n, e.gate), &w.format, w.cols, &flags);
    let grid = grid(&v, x.rows, n);
    let mut params = vec![x.rows as u32, n as u32, w.cols as u32, w_stride as u32, xw.offset, x.stride as u32];
    params.extend([yw.offset, y.stride as u32, s_stride as u32, offsets[0], offsets[1], offsets[2]]);
    params.extend([gain_offset, e.norm.map_or(0, |n| n.1.to_bits()), 0, 0]);
    params.extend(table_words(&w.format));
    let bytes = 4 * (weight_rows * (w_stride + s_stride) + x.rows * (x.cols + n * (1 + usize::from(residual != 0)))) as u64;
    let flops = 2 * (x.rows * w.cols * weight_rows) as u64;
    let twin = reference::linear::twin(w.format, weight_rows, flags.bias, residual, e);
    let label = if w.segments.len() > 1 { format!("{label} rows {:?}", s.rows) } else { label.into() };
    b.push(OpSpec { label, variant: v, params, bindings, grid, bytes, flops, twin })
}

/// The window of a segment's data or codes, which begins with the segment: kernels add no offset of their own.
fn data_window(b: &Builder, w: &Matrix, s: &Segment) -> Result<Window> {
    let window = b.window(s.data, s.offset..s.offset + s.rows.len() * w.format.row_words(w.cols))?;
    if window.offset > 0 {
        let why = format!("weight rows {:?} begin at word {} of their slot: not a multiple of 64", s.rows, s.offset);
        return Err(Error::shape("weights", why));
    }
    Ok(window)
}

/// The window of a whole matrix segment, for kernels that read weights otherwise (embedding).
pub(crate) fn segment_windows(b: &Builder, w: &Matrix, s: &Segment) -> Result<Vec<Window>> {
    let rows = s.rows.len();
    let mut out = vec![data_window(b, w, s)?];
    if let (Some(slot), Format::Quant(q)) = (s.scales, &w.format) {
        let words = if q.per_tensor { q.group_words(1, w.cols) } else { rows * q.scale_words(w.cols) };
        out.push(b.window(slot, 0..words)?);
    }
    Ok(out)
}
