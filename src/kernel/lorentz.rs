//! Maps of points of the Lorentz model of hyperbolic space ([`crate::hyperbolic`]), and their gradients.
//!
//! A point is `(a_0, a_s)`: its time, and its space. The maps are those of Chen et al. 2022, "Fully Hyperbolic Neural Networks".

use super::{Access, Variant, row_workgroup};
use crate::gpu::Facts;
use crate::plan::{Builder, OpSpec, SlotId};
use crate::reference;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Least time of [`Map::Rescale`]: as in the source, so that `t^2 - 1` is at least 0.21 and its root has a gradient.
pub const TIME_FLOOR: f32 = 1.1;

/// What `|a_s|^2` of [`Map::Rescale`] and `|<a,a>_L|` of [`Map::Centroid`] are at least, as in the source: nothing is divided by 0.
pub const CLAMP: f32 = 1e-8;

/// Most elements of a point that one invocation takes.
const SHORT: usize = 64;

/// A map of points `a` of D elements each.
#[derive(Debug, Clone, Copy)]
pub enum Map {
    /// `(t, a_s sqrt((t^2 - 1) / max(|a_s|^2, CLAMP)))` with `t = sigmoid(a_0) exp(s) + TIME_FLOOR`: what makes a Lorentz linear layer
    /// of a product. Below [`CLAMP`] the image is off the manifold, by at most `t^2 - 1`.
    Rescale {
        /// Slot and word of s, one for all points.
        scale: (SlotId, usize),
    },
    /// `a / sqrt(max(|<a,a>_L|, CLAMP))`: of a sum of points with weights above 0, their centroid.
    Centroid,
    /// The exponential map of the tangent vector `a_s` at the origin, whatever `a_0`: `(cosh(m), sinh(m) a_s / n)` with `n = |a_s|` and
    /// `m = min(n, MAX_NORM)` ([`crate::hyperbolic::MAX_NORM`]).
    Exp0,
    /// Its inverse `(0, asinh(n) a_s / n)` with `n = |a_s|`, whatever `a_0`; asinh keeps its digits where `acosh(a_0)` has none.
    Log0,
}

impl Map {
    /// As the shader counts them.
    fn code(&self) -> i64 {
        match self {
            Self::Rescale { .. } => 0,
            Self::Centroid => 1,
            Self::Exp0 => 2,
            Self::Log0 => 3,
        }
    }

    fn scale(&self) -> Option<(SlotId, usize)> {
        if let Self::Rescale { scale } = self { Some(*scale) } else { None }
    }
}

use Access::{Read as R, Write as W};

const FORWARD: [Access; 3] = [R, W, R];
const BACKWARD: [Access; 5] = [R, W, R, R, W];

fn variant(facts: &Facts, map: i64, [back, vec4, long]: [bool; 3]) -> Variant {
    let (wg, sg, subgroup) = if long { row_workgroup(facts, "lorentz", 64) } else { (64, 0, None) };
    let scaled = usize::from(map == 0);
    let [b, v, l] = [back, vec4, long].map(i64::from);
    Variant {
        kernel: "lorentz",
        source: include_str!("../../shaders/lorentz.wgsl"),
        defines: vec![("MAP", map), ("BACK", b), ("VEC", v), ("LONG", l), ("WG", wg), ("SG", sg)],
        access: if back { &BACKWARD[..3 + 2 * scaled] } else { &FORWARD[..2 + scaled] },
        subgroup,
    }
}

pub(crate) fn variants(facts: &Facts) -> Vec<Variant> {
    (0..32).map(|i| variant(facts, i >> 3, [1, 2, 4].map(|bit| i & bit != 0))).collect()
}

/// The operands of a map or its gradient.
struct Call<'a> {
    label: &'a str,
    map: &'a Map,
    heads: usize,
    x: &'a Tensor,
    /// The image, or the gradient of x.
    y: &'a Tensor,
    dy: Option<&'a Tensor>,
    ds: Option<&'a Tensor>,
}

/// Appends `y = map(x)`, point by point: a row of x is `heads` points. y, as large as x, lies in a slot of its own.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other, heads do not divide the columns, or a point has fewer than 2 elements;
/// [`Error::Limit`].
pub fn lorentz(b: &mut Builder, label: &str, map: &Map, heads: usize, x: &Tensor, y: &Tensor) -> Result<()> {
    append(b, &Call { label, map, heads, x, y, dy: None, ds: None })
}

/// Appends the gradient of [`lorentz`] with respect to x where that of its image is dy; dx lies in a slot of its own and is overwritten.
///
/// [`Map::Rescale`] writes what each point adds to the gradient of s into ds (rows x heads), in a slot of its own, for
/// [`column_sums`](super::columns::column_sums); the other maps have none. With `g = sqrt((t^2 - 1) / n2)`, `n2 = max(|a_s|^2, CLAMP)`:
///
/// * Rescale: `da_s = g dy_s - (dy_s . a_s) g / n2 a_s` (the second term 0 at the clamp), `dt = dy_0 + (dy_s . a_s) t / (g n2)`,
///   `da_0 = dt exp(s) sigmoid'(a_0)`, `ds = dt exp(s) sigmoid(a_0)`;
/// * Centroid: with `q = <a,a>_L` and J, which flips the sign of element 0, `|q|^(-1/2) dy - (dy . a) |q|^(-3/2) sign(q) J a` (the second
///   term 0 at the clamp);
/// * Exp0: `f dy_s + (dy_0 f + (dy_s . a_s) f' / n) a_s` with `f = sinh(n) / n`; beyond the largest norm, where f is `sinh(m) / n`, without
///   `dy_0 f`;
/// * Log0: `f dy_s + (dy_s . a_s) f' / n a_s` with `f = asinh(n) / n`.
///
/// # Errors
/// As [`lorentz`], and [`Error::Shape`] where ds is missing, or there without need.
#[expect(clippy::too_many_arguments, reason = "all of them are operands")]
pub fn lorentz_backward(
    b: &mut Builder,
    label: &str,
    map: &Map,
    heads: usize,
    x: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
    ds: Option<&Tensor>,
) -> Result<()> {
    let size = ds.map(|t| (t.rows, t.cols));
    if size != map.scale().map(|_| (x.rows, heads)) {
        return Err(Error::shape("lorentz", format!("{label}: {map:?} of ({}, {heads}) points with ds {size:?}", x.rows)));
    }
    append(b, &Call { label, map, heads, x, y: dx, dy: Some(dy), ds })
}

fn append(b: &mut Builder, c: &Call<'_>) -> Result<()> {
    let operands: Vec<&Tensor> = [c.x, c.y].into_iter().chain(c.dy).collect();
    let (rows, cols) = (c.x.rows, c.x.cols);
    let elements = cols.checked_div(c.heads).unwrap_or(0);
    if elements < 2 || elements * c.heads != cols || operands.iter().any(|t| (t.rows, t.cols) != (rows, cols)) {
        let sizes: Vec<_> = operands.iter().map(|t| format!("({}, {})", t.rows, t.cols)).collect();
        let message = format!("{}: {} points of 2 elements or more a row, of operands of {}", c.label, c.heads, sizes.join(", "));
        return Err(Error::shape("lorentz", message));
    }
    let widest = operands.iter().copied().chain(c.ds).map(|t| t.stride.max(t.cols)).max().unwrap_or(cols);
    for r in b.row_chunks(rows, widest)? {
        let cut = |t: &Tensor| t.slice_rows(r.clone());
        one(b, &Call { x: &cut(c.x), y: &cut(c.y), dy: c.dy.map(cut).as_ref(), ds: c.ds.map(cut).as_ref(), ..*c }, elements)?;
    }
    Ok(())
}

fn one(b: &mut Builder, c: &Call<'_>, elements: usize) -> Result<()> {
    let mut bindings = Vec::new();
    let mut place = |t: Option<&Tensor>| -> Result<[u32; 2]> {
        let Some(t) = t else { return Ok([0, 0]) };
        let w = b.view(t)?;
        bindings.push(w);
        Ok([w.offset, t.stride as u32])
    };
    let [x, y, dy] = [place(Some(c.x))?, place(Some(c.y))?, place(c.dy)?];
    let mut scale_offset = 0;
    if let Some((slot, at)) = c.map.scale() {
        let w = b.window(slot, at..at + 1)?;
        scale_offset = w.offset;
        bindings.push(w);
    }
    let mut ds = [0, 0];
    if let Some(t) = c.ds {
        let w = b.view(t)?;
        ds = [w.offset, t.stride as u32];
        bindings.push(w);
    }
    let mut places = [elements as u32, x[0], x[1], y[0], y[1], dy[0], dy[1]];
    let vec4 = places.iter().all(|n| n.is_multiple_of(4));
    let unit = if vec4 { 4 } else { 1 };
    places = places.map(|n| n / unit);
    let points = c.x.rows * c.heads;
    let mut params = vec![points as u32, c.heads as u32, places[0], scale_offset];
    params.extend(&places[1..]);
    params.extend(ds);
    let (back, long) = (c.dy.is_some(), elements > SHORT);
    let work = (points * elements) as u64;
    b.push(OpSpec {
        label: c.label.into(),
        variant: variant(b.facts(), c.map.code(), [back, vec4, long]),
        params,
        bindings,
        grid: [if long { points } else { points.div_ceil(64) } as u32, 1, 1],
        bytes: work * if back { 12 } else { 8 },
        flops: work * if back { 8 } else { 4 },
        twin: reference::lorentz::twin(*c.map, back, unit as usize),
    })
}
