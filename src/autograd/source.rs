//! Weights that may be stored packed: thawed into scratch memory right before they are read.

use crate::Result;
use crate::kernel::add::copy;
use crate::kernel::thaw::{Rows, thaw};
use crate::plan::Builder;
use crate::tensor::{PackedRows, Tensor};

/// A stored matrix.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// In f32.
    Plain(Tensor),
    /// Packed; some rows may be overlaid. Not [`Rows::Listed`].
    Packed(PackedRows, Rows),
}

impl From<Tensor> for Source {
    fn from(t: Tensor) -> Self {
        Self::Plain(t)
    }
}

impl Source {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Plain(t) => t.rows,
            Self::Packed(p, _) => p.rows,
        }
    }

    /// Elements of a row.
    pub fn cols(&self) -> usize {
        match self {
            Self::Plain(t) => t.cols,
            Self::Packed(p, _) => p.cols,
        }
    }

    /// The matrix in f32. What is packed is thawed here, into a transient of its own: whoever needs it again later asks again,
    /// so that nothing is kept alive between, and the layers of a plan take turns in one scratch.
    ///
    /// # Errors
    /// As [`thaw`].
    pub fn values(&self, b: &mut Builder, label: &str) -> Result<Tensor> {
        match self {
            Self::Plain(t) => Ok(*t),
            Self::Packed(p, _) => {
                let t = b.transient(format!("{label} thawed"), p.rows, p.cols);
                self.copy_to(b, label, &t).map(|()| t)
            }
        }
    }

    /// The same into a tensor that the caller chooses, in a slot of its own.
    ///
    /// # Errors
    /// As [`thaw`]; [`crate::Error::Shape`] where it has another shape.
    pub fn copy_to(&self, b: &mut Builder, label: &str, to: &Tensor) -> Result<()> {
        match self {
            Self::Plain(t) => copy(b, label, t, to),
            Self::Packed(p, which) => thaw(b, &format!("{label} thaw"), p, which, to),
        }
    }
}
