//! Matrices of f64 on the host, stored row after row: products, triangular factors and eigenvectors of symmetric ones.

/// Replaces the lower triangle of an `n x n` matrix A by L with `A = L Lᵀ`; the rest is not looked at. Returns n, or `None` where A is not
/// positive definite.
///
/// With a `floor`, rows of which no more than that is left beside those before are left out: their rows and columns of L's inverse
/// are 0, and the rank without them is returned.
pub(super) fn factor(a: &mut [f64], n: usize, floor: Option<f64>) -> Option<usize> {
    let mut rank = n;
    for i in 0..n {
        let (above, row) = a.split_at_mut(i * n);
        let row = &mut row[..n];
        for j in 0..i {
            let other = &above[j * n..][..=j];
            row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
        }
        let square = row[i] - dot(&row[..i], &row[..i]);
        if floor.is_some_and(|f| square <= f) {
            // Whatever is divided by it is 0.
            row[..i].fill(0.0);
            row[i] = f64::INFINITY;
            rank -= 1;
        } else if square > 0.0 && square.is_finite() {
            row[i] = square.sqrt();
        } else {
            // Also for NaN.
            return None;
        }
    }
    Some(rank)
}

/// Replaces a lower triangle L by its inverse, the rest by zeros.
pub(super) fn invert(l: &mut [f64], n: usize) {
    let mut sum = vec![0.0; n];
    for i in 0..n {
        let (above, row) = l.split_at_mut(i * n);
        let row = &mut row[..n];
        sum[..i].fill(0.0);
        for (k, factor) in row[..i].iter().enumerate() {
            axpy(*factor, &above[k * n..][..=k], &mut sum[..=k]);
        }
        let diagonal = row[i].recip();
        for (x, s) in row[..i].iter_mut().zip(&sum) {
            *x = -s * diagonal;
        }
        row[i] = diagonal;
        row[i + 1..].fill(0.0);
    }
}

/// In eight running sums, so that the compiler may use vectors.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a.zip(b) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// `y += factor x`.
pub(super) fn axpy(factor: f64, x: &[f64], y: &mut [f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += factor * x;
    }
}

/// `Aᵀ B` of matrices with as many rows, `m` and `n` columns.
pub(super) fn transposed_product(a: &[f64], m: usize, b: &[f64], n: usize) -> Vec<f64> {
    let mut y = vec![0.0; m * n];
    for (a, b) in a.chunks_exact(m).zip(b.chunks_exact(n)) {
        for (a, y) in a.iter().zip(y.chunks_exact_mut(n)) {
            axpy(*a, b, y);
        }
    }
    y
}

/// `A B` of a matrix with `k` columns and one with `n`.
pub(super) fn product(a: &[f64], k: usize, b: &[f64], n: usize) -> Vec<f64> {
    let mut y = vec![0.0; a.len() / k.max(1) * n];
    for (a, y) in a.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
        for (a, b) in a.iter().zip(b.chunks_exact(n)) {
            axpy(*a, b, y);
        }
    }
    y
}

/// The transpose of a matrix with `n` columns.
pub(super) fn transpose(a: &[f64], n: usize) -> Vec<f64> {
    let rows = a.len() / n.max(1);
    (0..n).flat_map(|c| (0..rows).map(move |r| a[r * n + c])).collect()
}

/// Makes the rows of a matrix with `n` columns orthogonal by rotations of two at a time (one-sided Jacobi); returns their lengths, the
/// singular values, in no order.
pub(super) fn orthogonalise(a: &mut [f64], n: usize) -> Vec<f64> {
    orthogonalise_with(a, n, &mut [], 0)
}

/// The same; rotations are made to the rows of `other`, with `m` columns, too.
pub(super) fn orthogonalise_with(a: &mut [f64], n: usize, other: &mut [f64], m: usize) -> Vec<f64> {
    /// Sweeps; some eight do for hundreds of rows.
    const SWEEPS: usize = 40;
    let rows = a.len() / n.max(1);
    for _ in 0..SWEEPS {
        let mut turned = false;
        for j in 1..rows {
            for i in 0..j {
                turned |= rotate(a, n, other, m, (i, j));
            }
        }
        if !turned {
            break;
        }
    }
    a.chunks_exact(n).map(|row| dot(row, row).sqrt()).collect()
}

/// Turns two rows so that they are orthogonal; `false` where they are.
fn rotate(a: &mut [f64], n: usize, other: &mut [f64], m: usize, (i, j): (usize, usize)) -> bool {
    let pair = |v: &[f64], n: usize| -> [f64; 3] {
        let (x, y) = (&v[i * n..][..n], &v[j * n..][..n]);
        [dot(x, x), dot(y, y), dot(x, y)]
    };
    let [xx, yy, xy] = pair(a, n);
    // A row that is nothing beside the other has no direction left.
    if xy.abs() <= 1e-14 * (xx * yy).sqrt() || xx.min(yy) <= 1e-28 * xx.max(yy) {
        return false;
    }
    let zeta = (yy - xx) / (2.0 * xy);
    let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
    let c = t.hypot(1.0).recip();
    let turn = |v: &mut [f64], n: usize| {
        let (low, high) = v.split_at_mut(j * n);
        for (x, y) in low[i * n..(i + 1) * n].iter_mut().zip(&mut high[..n]) {
            (*x, *y) = (c * *x - c * t * *y, c * t * *x + c * *y);
        }
    };
    turn(a, n);
    turn(other, m);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_and_inverses_multiply_back() {
        for n in [1usize, 2, 7, 8, 9, 33] {
            let x: Vec<f64> = (0..n * (n + 3)).map(|i| ((i * 7919 % 1009) as f64 / 504.0) - 1.0).collect();
            let row = |i: usize| &x[i * (n + 3)..][..n + 3];
            let a: Vec<f64> = (0..n * n).map(|i| dot(row(i / n), row(i % n)) + f64::from(u8::from(i / n == i % n))).collect();
            let mut l = a.clone();
            assert_eq!(factor(&mut l, n, None), Some(n));
            let lower = |m: &[f64], i: usize, j: usize| if j <= i { m[i * n + j] } else { 0.0 };
            let mut inverse = l.clone();
            invert(&mut inverse, n);
            for i in 0..n {
                for j in 0..n {
                    let product: f64 = (0..n).map(|k| lower(&l, i, k) * lower(&l, j, k)).sum();
                    assert!((product - a[i * n + j]).abs() < 1e-12 * n as f64, "{n}: {product} for {}", a[i * n + j]);
                    let unit: f64 = (0..n).map(|k| lower(&l, i, k) * inverse[k * n + j]).sum();
                    assert!((unit - f64::from(u8::from(i == j))).abs() < 1e-11, "{n}: {unit}");
                }
            }
        }
        assert!(factor(&mut [1.0, 0.0, 2.0, 1.0], 2, None).is_none() && factor(&mut [f64::NAN], 1, Some(0.1)).is_none());
        // The second row is the first again.
        let mut a = [4.0, 0.0, 0.0, 4.0, 4.0, 0.0, 2.0, 2.0, 5.0];
        assert_eq!(factor(&mut a, 3, Some(1e-12)), Some(2));
        invert(&mut a, 3);
        assert_eq!(a, [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, -0.25, 0.0, 0.5]);
    }
}
