//! What a linear layer reads: rows that lie densely, or the constant rows of a sparse matrix.

use super::layers::product;
use crate::kernel::matmul::Product;
use crate::kernel::spmm::{Spmm, spmm};
use crate::plan::Builder;
use crate::tensor::{SparsePair, Tensor};
use crate::{Error, Result};

/// The left operand of a product.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input {
    Dense(Tensor),
    Sparse(SparsePair),
}

impl Input {
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Dense(t) => t.rows,
            Self::Sparse(p) => p.matrix.rows,
        }
    }

    pub(super) fn cols(&self) -> usize {
        match self {
            Self::Dense(t) => t.cols,
            Self::Sparse(p) => p.matrix.cols,
        }
    }

    pub(super) fn is_sparse(&self) -> bool {
        matches!(self, Self::Sparse(_))
    }

    /// `y = x wᵀ` with what `epilogue` adds.
    pub(super) fn times(&self, b: &mut Builder, label: &str, w: &Tensor, y: &Tensor, epilogue: Product) -> Result<()> {
        match self {
            Self::Dense(x) => product(b, label, x, w, y, Product { b_t: true, ..epilogue }),
            Self::Sparse(_) if epilogue.residual.is_some() => {
                Err(Error::shape("spmm", format!("{label}: a residual beside sparse rows: add it afterwards")))
            }
            Self::Sparse(x) => {
                let Product { alpha, accumulate, bias, .. } = epilogue;
                spmm(b, label, &x.matrix, w, y, &Spmm { b_t: true, alpha, accumulate, bias, ..Spmm::default() })
            }
        }
    }

    /// `g = alpha dyᵀ x`, added to what g holds where it accumulates.
    pub(super) fn gradient(&self, b: &mut Builder, label: &str, dy: &Tensor, g: &Tensor, (alpha, accumulate): (f32, bool)) -> Result<()> {
        match self {
            Self::Dense(x) => product(b, label, dy, x, g, Product { a_t: true, alpha, accumulate, ..Product::default() }),
            Self::Sparse(x) => spmm(b, label, &x.transpose, dy, g, &Spmm { y_t: true, alpha, accumulate, ..Spmm::default() }),
        }
    }
}
