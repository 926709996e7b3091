use super::{Bench, all_facts};
use etalon::Facts;
use etalon::kernel::adam::{After, Segment, Update, chunks};
use etalon::kernel::grad_norm::{Page, grad_norm};
use etalon::kernel::progress::Progress;
use etalon::tensor::Tensor;

fn segment(gradient: usize, len: usize, update: Update) -> Segment {
    let len = if let Update::Rows { count, cols, .. } = update { (count + 2) * cols } else { len };
    Segment { label: format!("at {gradient}"), value: 2 * gradient, gradient, len, group: 0, weight_decay: 0.0, update }
}

/// Aligned and odd segments, rows, a segment above 1 MiB, and one without words.
fn segments() -> Vec<Segment> {
    let rows = |cols| Update::Rows { indices: 0, count: 3, cols, after: After::Normalise };
    let mut at = 0;
    let sizes = [1, 4097, 64, 300_001, 0, 8192, 5];
    let mut all: Vec<Segment> = sizes
        .into_iter()
        .map(|len| {
            let s = segment(at, len, Update::Dense);
            at = (at + len + 3).next_multiple_of(64);
            s
        })
        .collect();
    all.push(segment(at, 0, rows(768)));
    all.push(segment(at + 3 * 768, 0, rows(65)));
    all.push(segment(at + 3 * 768 + 3 * 65 + 2, 11, Update::Clamped));
    all
}

/// The progress after the norm of these gradients.
fn run(facts: &Facts, gradients: &[f32], segments: &[Segment], clip: Option<f32>, before: Progress) -> Progress {
    let mut t = Bench::new(facts, 1);
    // Two pages, as a large model has.
    let (a, b) = segments.split_at(segments.len() / 2);
    let tables = [a, b].map(|part| t.words("table", &chunks(part)));
    let pages: Vec<_> = [a, b]
        .into_iter()
        .zip(tables)
        .map(|(segments, table)| Page { gradients: t.floats("gradients", gradients), segments, table })
        .filter(|p| !p.segments.is_empty())
        .collect();
    let progress = t.words("progress", &before.words());
    grad_norm(&mut t.builder, "norm", &pages, progress, clip).unwrap();
    let words = t.verify(&Tensor { slot: progress, offset: 0, rows: 1, cols: 16, stride: 16 });
    Progress::from_words(bytemuck::cast_slice(&words))
}

fn used(segments: &[Segment]) -> usize {
    segments.iter().map(|s| s.gradient + s.gradient_len()).max().unwrap()
}

#[test]
fn norm_and_clipping_are_those_of_torch() {
    let segments = segments();
    for (_, facts) in all_facts() {
        let gradients = Bench::new(&facts, 4).random_values(used(&segments) + 9);
        let sum: f64 = segments.iter().flat_map(|s| &gradients[s.gradient..][..s.gradient_len()]).map(|g| f64::from(*g).powi(2)).sum();
        for clip in [None, Some(1.0), Some(1e6)] {
            let p = run(&facts, &gradients, &segments, clip, Progress { step: 3, ..Progress::default() });
            let want = clip.map_or(1.0, |c| (f64::from(c) / (sum.sqrt() + 1e-6)).min(1.0));
            assert!((f64::from(p.norm) / sum.sqrt() - 1.0).abs() < 1e-6 && (f64::from(p.clip) / want - 1.0).abs() < 1e-6, "{p:?}");
            assert_eq!((p.step, p.fault), (3, 0));
        }
        let p = run(&facts, &vec![0.0; gradients.len()], &segments, Some(0.5), Progress::default());
        assert_eq!((p.norm, p.clip), (0.0, 1.0));
    }
}

#[test]
fn many_chunks_are_summed_by_fewer_workgroups() {
    // More than 2 x 1024 chunks, so that workgroups take more than one.
    let rows = Update::Rows { indices: 0, count: 2500, cols: 20, after: After::Nothing };
    let all = vec![segment(0, 4100, Update::Dense), segment(4160, 0, rows)];
    for (_, facts) in all_facts() {
        let mut gradients = Bench::new(&facts, 8).random_values(used(&all));
        assert_eq!(run(&facts, &gradients, &all, None, Progress::default()).fault, 0);
        gradients[4160 + 49_999] = f32::NAN;
        assert_eq!(run(&facts, &gradients, &all, None, Progress::default()).fault, 2);
    }
}

#[test]
fn the_first_segment_that_is_not_finite_is_named() {
    let segments = segments();
    for (_, facts) in all_facts() {
        let gradients = Bench::new(&facts, 5).random_values(used(&segments) + 9);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e20, -f32::MAX] {
            for number in [0, 1, 3, 6, 8, 9] {
                let s = &segments[number];
                let mut gradients = gradients.clone();
                gradients[s.gradient + s.gradient_len() - 1] = bad;
                gradients[segments[9].gradient] = bad;
                let p = run(&facts, &gradients, &segments, Some(1.0), Progress::default());
                assert_eq!((p.fault, p.norm, p.clip), (1 + number as u32, f32::INFINITY, 0.0), "{bad} in {number}");
            }
        }
        // What lies between segments does not matter, and a fault that is known stays.
        let mut gradients = gradients;
        gradients[segments[0].len] = f32::NAN;
        assert_eq!(run(&facts, &gradients, &segments, None, Progress::default()).fault, 0);
        gradients[0] = f32::NAN;
        assert_eq!(run(&facts, &gradients, &segments, None, Progress { fault: 7, ..Progress::default() }).fault, 7);
    }
}

#[test]
fn segments_without_gradients_are_refused() {
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let slots = ["gradients", "table", "progress"].map(|l| t.words(l, &[0; 64]));
    let empty = [segment(0, 0, Update::Dense)];
    let page = Page { gradients: slots[0], segments: &empty, table: slots[1] };
    assert!(grad_norm(&mut t.builder, "norm", &[page], slots[2], None).is_err());
}
