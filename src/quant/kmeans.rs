//! Classes of numbers, as sensitivities are sorted into widths.

use crate::{Error, Result};

/// Which of `k` classes each number belongs to, 0 having the smallest: the partition into runs of the sorted numbers with the least
/// sum of squared distances to the classes' means. It is exact, without random starts, and equal numbers share a class, so that
/// there are fewer classes where there are fewer different numbers.
///
/// # Errors
/// [`Error::Request`] for `k = 0` or a number that is infinite or NaN.
pub fn kmeans(numbers: &[f64], k: usize) -> Result<Vec<usize>> {
    if k == 0 || numbers.iter().any(|v| !v.is_finite()) {
        return Err(Error::Request(format!(
            "{k} classes of numbers of which {} are not finite",
            numbers.iter().filter(|v| !v.is_finite()).count()
        )));
    }
    let mut values = numbers.to_vec();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let counts: Vec<f64> = values.iter().map(|v| numbers.iter().filter(|n| *n == v).count() as f64).collect();
    // Around the middle the squares lose fewest digits.
    let centre = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let mut sums = vec![[0.0; 3]];
    for (v, n) in values.iter().zip(&counts) {
        let (d, [a, b, c]) = (v - centre, sums[sums.len() - 1]);
        sums.push([a + n, b + n * d, c + n * d * d]);
    }
    let spread = |from: usize, to: usize| {
        let [n, s, q] = [0, 1, 2].map(|i| sums[to][i] - sums[from][i]);
        (q - s * s / n).max(0.0)
    };
    let n = values.len();
    // Least spread of the first numbers in one class more at each turn, and where its last class begins.
    let mut least: Vec<f64> = (0..=n).map(|to| if to == 0 { 0.0 } else { spread(0, to) }).collect();
    let mut starts = vec![vec![0; n + 1]];
    for class in 1..k.min(n) {
        let best = |to: usize| (class..to).map(|from| (least[from] + spread(from, to), from)).min_by(|a, b| a.0.total_cmp(&b.0));
        let found: Vec<(f64, usize)> = (0..=n).map(|to| best(to).unwrap_or((f64::INFINITY, 0))).collect();
        least = found.iter().map(|f| f.0).collect();
        starts.push(found.iter().map(|f| f.1).collect());
    }
    let mut class_of = vec![0; n];
    let mut to = n;
    for (class, starts) in starts.iter().enumerate().rev() {
        class_of[starts[to]..to].fill(class);
        to = starts[to];
    }
    let place = |v: &f64| values.iter().position(|x| x == v).map_or(0, |i| class_of[i]);
    Ok(numbers.iter().map(place).collect())
}
