//! Reverse mode at plan-building time.
//!
//! A [`Tape`] appends the dispatches of an operation to a [`Builder`] and keeps, for each, a closure that appends those of its
//! gradient. [`Tape::backward`] runs the closures in reverse. Nothing is traced or interpreted when the plan runs: a training step
//! is a plan like any other.
//!
//! What an operation saves for its gradient (an input, a pre-activation, a row's mean and inverse deviation, the logarithm of a
//! softmax's total) is a transient slot that the closure holds, so that the memory plan keeps it alive exactly as long as needed.

mod attention;
mod graph;
mod input;
mod layers;
mod loss;
mod source;
mod spectral;

pub use attention::Attention;
pub use graph::Links;
pub use layers::NormParameters;
pub use loss::Loss;
pub use source::Source;
pub use spectral::{Gradient, Spectral, SpectralGradients, Strategy};

use crate::Result;
use crate::kernel::add::{accumulate, add};
use crate::plan::{Builder, SlotId};
use crate::tensor::{SparsePair, Tensor};
use input::Input;
use std::collections::{HashMap, HashSet};

/// A value of the graph: an activation whose gradient is made on the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Var(usize);

/// A stored tensor and, where it is trained, the tensor that its gradient is written to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameter {
    /// Its values.
    pub value: Tensor,
    /// Its gradient; `None`: frozen.
    pub gradient: Option<Tensor>,
}

impl Parameter {
    /// One that is not trained.
    pub fn frozen(value: Tensor) -> Self {
        Self { value, gradient: None }
    }
}

/// A linear layer's weight, `m x n`: `y = x Wᵀ`.
#[derive(Debug, Clone, Copy)]
pub enum Weight {
    /// Stored as it is.
    Dense(Parameter),
    /// `W + scale B A` with W frozen (LoRA).
    LowRank {
        /// `m x n`, frozen.
        w: Source,
        /// `r x n`.
        a: Parameter,
        /// `m x r`.
        b: Parameter,
        /// Alpha / r.
        scale: f32,
    },
    /// W itself, whose gradient is stored only as its projection onto `r` directions (GaLore).
    Projected {
        /// `m x n`.
        w: Tensor,
        /// `r x m` where m <= n (the gradient stored is `P G`), else `r x n` (`P Gᵀ`).
        projector: Tensor,
        /// `r x n`, or `r x m`.
        gradient: Option<Tensor>,
        /// The whole gradient, `m x n`, where it is wanted too.
        whole: Option<Tensor>,
    },
    /// `U diag(sigma) Vᵀ`.
    Spectral(Spectral),
}

/// What appends the gradients of a weight and of its input, given the gradient of the output.
type WeightBackward = Box<dyn FnOnce(&mut Tape, &Tensor) -> Result<()>>;
type Backward = Box<dyn FnOnce(&mut Tape) -> Result<()>>;

/// A plan under construction together with what its backward pass will append.
pub struct Tape {
    /// The plan.
    pub builder: Builder,
    values: Vec<Tensor>,
    gradients: Vec<Option<Tensor>>,
    /// Constants have no gradient.
    constant: Vec<bool>,
    /// Constants that are sparse, and have no tensor.
    sparse: HashMap<Var, SparsePair>,
    nodes: Vec<Backward>,
    recording: bool,
    /// Gradients are wanted in the end: also while a block that will be recomputed runs without recording.
    training: bool,
    /// Gradients of parameters are added to what their tensors hold, from the first contribution on.
    accumulate: bool,
    /// First words of parameter gradients that this plan has written already.
    written: HashSet<(SlotId, usize)>,
    /// Values whose pending gradient is the tensor in this slot.
    owners: HashMap<SlotId, usize>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} values, {} operations)", self.values.len(), self.nodes.len())
    }
}

impl Tape {
    /// A tape for training. With `accumulate`, parameters' gradients are added to what is there: for all but the first of the
    /// batches that make up a step.
    pub fn new(builder: Builder, accumulate: bool) -> Self {
        Self {
            builder,
            values: Vec::new(),
            gradients: Vec::new(),
            constant: Vec::new(),
            sparse: HashMap::new(),
            nodes: Vec::new(),
            recording: true,
            training: true,
            accumulate,
            written: HashSet::new(),
            owners: HashMap::new(),
        }
    }

    /// A tape that only goes forward: for evaluation.
    pub fn forward_only(builder: Builder) -> Self {
        Self { recording: false, training: false, ..Self::new(builder, false) }
    }

    /// True where gradients will be wanted: operations that only training has, such as dropout, are appended.
    pub fn trains(&self) -> bool {
        self.training
    }

    /// A value without a gradient: an input.
    pub fn constant(&mut self, t: Tensor) -> Var {
        self.var(t, true)
    }

    /// No gradient is made of a value, nor of what it was made from alone.
    pub fn stop(&mut self, v: Var) {
        self.constant[v.0] = true;
    }

    /// The tensor of a value.
    pub fn tensor(&self, v: Var) -> Tensor {
        self.values[v.0]
    }

    fn var(&mut self, t: Tensor, constant: bool) -> Var {
        self.values.push(t);
        self.gradients.push(None);
        self.constant.push(constant);
        Var(self.values.len() - 1)
    }

    /// A new value, in a transient tensor.
    fn output(&mut self, label: &str, rows: usize, cols: usize) -> (Var, Tensor) {
        let t = self.builder.transient(label, rows, cols);
        (self.var(t, false), t)
    }

    fn record(&mut self, backward: impl FnOnce(&mut Tape) -> Result<()> + 'static) {
        if self.recording {
            self.nodes.push(Box::new(backward));
        }
    }

    /// The gradient of a value, if anything contributed to it; it is complete once its operation's turn has come.
    fn take(&mut self, v: Var) -> Option<Tensor> {
        let g = self.gradients[v.0].take()?;
        if let Some(n) = self.owners.get_mut(&g.slot) {
            *n -= 1;
        }
        Some(g)
    }

    fn own(&mut self, v: Var, g: Tensor) {
        *self.owners.entry(g.slot).or_default() += 1;
        self.gradients[v.0] = Some(g);
    }

    /// Adds to the gradient of `v`: `write(builder, tensor, accumulate)` appends what computes the contribution.
    pub fn contribute(&mut self, v: Var, write: impl FnOnce(&mut Builder, &Tensor, bool) -> Result<()>) -> Result<()> {
        if self.constant[v.0] {
            return Ok(());
        }
        let t = self.values[v.0];
        match self.gradients[v.0] {
            Some(g) if self.owners.get(&g.slot) == Some(&1) => write(&mut self.builder, &g, true),
            other => {
                let new = self.builder.transient("gradient", t.rows, t.cols);
                write(&mut self.builder, &new, false)?;
                if let Some(g) = other {
                    // Somebody else's gradient too: it must stay as it is.
                    accumulate(&mut self.builder, "add gradients", &g, &new)?;
                    self.take(v);
                }
                self.own(v, new);
                Ok(())
            }
        }
    }

    /// Hands a gradient on unchanged, without a copy where `v` has none yet. The caller must not write to it afterwards.
    fn pass(&mut self, v: Var, g: Tensor) -> Result<()> {
        if self.constant[v.0] {
            return Ok(());
        }
        if self.gradients[v.0].is_none() {
            self.own(v, g);
            return Ok(());
        }
        self.contribute(v, |b, dst, adds| match adds {
            true => accumulate(b, "add gradients", &g, dst),
            false => crate::kernel::add::copy(b, "copy gradient", &g, dst),
        })
    }

    /// The tensor of a parameter's gradient, and whether to add to it.
    fn target(&mut self, gradient: &Tensor) -> bool {
        let fresh = self.written.insert((gradient.slot, gradient.offset));
        self.accumulate || !fresh
    }

    /// `z = x + y`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where they differ in shape.
    pub fn add(&mut self, label: &str, x: Var, y: Var) -> Result<Var> {
        let (a, b) = (self.tensor(x), self.tensor(y));
        let (z, t) = self.output(label, a.rows, a.cols);
        add(&mut self.builder, label, &a, &b, &t)?;
        self.record(move |tape| {
            let Some(dz) = tape.take(z) else { return Ok(()) };
            tape.pass(x, dz)?;
            tape.pass(y, dz)
        });
        Ok(z)
    }

    /// Runs `block` forward without keeping what it saves, and once more when its gradient is due: memory of one block instead of
    /// all, for one more forward pass. The same kernels run on the same operands, so that no bit changes.
    ///
    /// # Errors
    /// What `block` returns.
    pub fn recomputed(&mut self, x: Var, block: impl Fn(&mut Tape, Var) -> Result<Var> + 'static) -> Result<Var> {
        if !self.recording {
            return block(self, x);
        }
        self.recording = false;
        let inner = block(self, x)?;
        self.recording = true;
        let y = self.var(self.tensor(inner), false);
        self.record(move |tape| {
            let Some(dy) = tape.take(y) else { return Ok(()) };
            let before = tape.nodes.len();
            let again = block(tape, x)?;
            tape.own(again, dy);
            tape.unwind(before)
        });
        Ok(y)
    }

    /// Appends the backward pass. The loss has put its gradient into its input already.
    ///
    /// # Errors
    /// What the kernels return.
    pub fn backward(&mut self) -> Result<()> {
        self.unwind(0)
    }

    fn unwind(&mut self, to: usize) -> Result<()> {
        while self.nodes.len() > to {
            if let Some(node) = self.nodes.pop() {
                node(self)?;
            }
        }
        Ok(())
    }
}
