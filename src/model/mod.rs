//! Model families: each builds plans from kernels.
