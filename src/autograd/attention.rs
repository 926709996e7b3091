//! Attention over the activations of a run, with the probabilities made anew for the gradient.

use super::{Tape, Var};
use crate::Result;
use crate::kernel::attention::{Keys, attention, attention_saving};
use crate::kernel::attention_backward::{AttentionGradient, attention_backward};
use crate::kernel::rope::Qkv;
use crate::plan::SlotId;

/// Which attention.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// The sequences' states: `count` keys of each are valid, and without `cross` as many queries.
    pub state: SlotId,
    /// Row t sees rows up to its own.
    pub causal: bool,
    /// Queries are another sequence's rows, all of them valid, and may be more or fewer than the keys. Not with `causal`.
    pub cross: bool,
    /// Number of sequences.
    pub sequences: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor of `q . k`.
    pub scale: f32,
}

impl Tape {
    /// `softmax(scale q . K) V` for each head. Saves the logarithm of each row's total.
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::Limit`].
    pub fn attention(&mut self, label: &str, [q, k, v]: [Var; 3], a: &Attention) -> Result<Var> {
        let x = Qkv { q: self.tensor(q), k: self.tensor(k), v: self.tensor(v) };
        let keys = Keys::Activations { causal: a.causal, sequences: a.sequences, kv_heads: a.kv_heads };
        let (y, o) = self.output(label, x.q.rows, x.q.cols);
        if !self.recording {
            attention(&mut self.builder, label, a.state, &x, &keys, a.head_dim, a.scale, &o)?;
            return Ok(y);
        }
        let lse = self.builder.transient(format!("{label} totals"), x.q.rows, x.q.cols / a.head_dim.max(1));
        attention_saving(&mut self.builder, label, a.state, &x, &keys, a.head_dim, a.scale, &o, &lse)?;
        let (a, label) = (*a, format!("{label} gradient"));
        self.record(move |tape| {
            let Some(d_o) = tape.take(y) else { return Ok(()) };
            let b = &mut tape.builder;
            let mut like = |l: &str, t: &crate::tensor::Tensor| b.transient(l, t.rows, t.cols);
            let dx = Qkv { q: like("dq", &x.q), k: like("dk", &x.k), v: like("dv", &x.v) };
            attention_backward(
                b,
                &label,
                &AttentionGradient {
                    state: a.state,
                    x: &x,
                    causal: a.causal,
                    cross: a.cross,
                    sequences: a.sequences,
                    kv_heads: a.kv_heads,
                    head_dim: a.head_dim,
                    scale: a.scale,
                    o: &o,
                    lse: &lse,
                    d_o: &d_o,
                    dx: &dx,
                },
            )?;
            tape.pass(q, dx.q)?;
            tape.pass(k, dx.k)?;
            tape.pass(v, dx.v)
        });
        Ok(y)
    }
}
