//! Triangular factors in f64 of symmetric matrices, stored row after row.

/// Replaces the lower triangle of an `n x n` matrix A by L with `A = L Lᵀ`; the rest is not looked at. `false` where A is not positive
/// definite.
pub(super) fn factor(a: &mut [f64], n: usize) -> bool {
    for i in 0..n {
        let (above, row) = a.split_at_mut(i * n);
        let row = &mut row[..n];
        for j in 0..i {
            let other = &above[j * n..][..=j];
            row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
        }
        let square = row[i] - dot(&row[..i], &row[..i]);
        // Not so for NaN either.
        if !(square > 0.0 && square.is_finite()) {
            return false;
        }
        row[i] = square.sqrt();
    }
    true
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
fn dot(a: &[f64], b: &[f64]) -> f64 {
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
            assert!(factor(&mut l, n));
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
        assert!(!factor(&mut [1.0, 0.0, 2.0, 1.0], 2) && !factor(&mut [f64::NAN], 1));
    }
}
