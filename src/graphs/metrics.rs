//! How good scores are.

/// Indices in falling order of the scores; those that are not numbers come last.
fn falling(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let key = |i: usize| if scores[i].is_nan() { f32::NEG_INFINITY } else { scores[i] };
    order.sort_by(|a, b| key(*b).total_cmp(&key(*a)));
    order
}

/// Runs of equal scores: positives and negatives among each.
fn runs(positives: &[f32], negatives: &[f32]) -> Vec<(f64, f64)> {
    let all: Vec<f32> = positives.iter().chain(negatives).copied().collect();
    let mut out: Vec<(f64, f64)> = Vec::new();
    let mut last = None;
    for i in falling(&all) {
        if last != Some(all[i]) {
            out.push((0.0, 0.0));
            last = Some(all[i]);
        }
        if let Some(run) = out.last_mut() {
            if i < positives.len() { run.0 += 1.0 } else { run.1 += 1.0 }
        }
    }
    out
}

/// Probability that a positive scores above a negative, equal ones counting half; NaN without either.
pub fn roc_auc(positives: &[f32], negatives: &[f32]) -> f64 {
    let (mut above, mut area) = (0.0, 0.0);
    for (p, n) in runs(positives, negatives) {
        area += n * (above + p / 2.0);
        above += p;
    }
    area / (positives.len() as f64 * negatives.len() as f64)
}

/// `sum_k (R_k - R_(k-1)) P_k` over the distinct scores as thresholds, with recall R and precision P; NaN without positives.
pub fn average_precision(positives: &[f32], negatives: &[f32]) -> f64 {
    let (mut hits, mut all, mut sum) = (0.0, 0.0, 0.0);
    for (p, n) in runs(positives, negatives) {
        (hits, all) = (hits + p, all + p + n);
        sum += p * hits / all;
    }
    sum / positives.len() as f64
}

/// F1 of the highest scores as classes: of class 1 where there are two (0 where it is never right), else over all nodes (micro, which is
/// the accuracy).
pub fn f1(scores: &[f32], classes: usize, labels: &[u32]) -> f64 {
    let best = |row: &[f32]| (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32;
    let guesses: Vec<u32> = scores.chunks_exact(classes.max(1)).map(best).collect();
    let pairs = || guesses.iter().zip(labels);
    if classes > 2 {
        return pairs().filter(|(g, l)| g == l).count() as f64 / labels.len() as f64;
    }
    let count = |of: fn(u32, u32) -> bool| pairs().filter(|(g, l)| of(**g, **l)).count() as f64;
    let (right, wrong) = (count(|g, l| g == 1 && l == 1), count(|g, l| g != l));
    if right == 0.0 { 0.0 } else { 2.0 * right / (2.0 * right + wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small cases, counted by hand from the definitions.
    #[test]
    fn metrics_are_what_they_are_defined_as() {
        let (p, n) = ([0.9, 0.8, 0.4, 0.4], [0.7, 0.4, 0.2]);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} where {b} is expected");
        // Of 12 pairs 8 are in order, and 2 are equal.
        close(roc_auc(&p, &n), 9.0 / 12.0);
        // Thresholds 0.9, 0.8, 0.7, 0.4: precisions 1, 1, 2/3, 4/6; recalls 1/4, 1/2, 1/2, 1.
        close(average_precision(&p, &n), 0.25 + 0.25 + 0.5 * 4.0 / 6.0);
        close(roc_auc(&[1.0, 1.0], &[1.0]), 0.5);
        let scores = [0.1, 0.9, 0.8, 0.2, 0.3, 0.7, 0.6, 0.4];
        close(f1(&scores, 2, &[1, 1, 1, 0]), 2.0 * 2.0 / (2.0 * 2.0 + 1.0));
        close(f1(&[0.1, 0.2, 0.3, 0.9, 0.0, 0.1], 3, &[2, 1]), 0.5);
        close(f1(&[1.0, 0.0], 2, &[1]), 0.0);
        assert!(roc_auc(&[], &n).is_nan());
    }
}
