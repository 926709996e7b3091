use super::{Bench, all_facts};
use etalon::kernel::lorentz::{Map, lorentz, lorentz_backward};
use etalon::tensor::Tensor;

const SIZES: [usize; 7] = [2, 3, 16, 17, 64, 65, 576];

fn maps(t: &mut Bench) -> [Map; 4] {
    let scale = (t.floats("scale", &[9.0, 9.0, 9.0, 1.25]), 3);
    [Map::Rescale { scale }, Map::Centroid, Map::Exp0, Map::Log0]
}

/// Points of many sizes up to `size`, row by row; whole vectors where `elements` is a multiple of 4, else at odd words.
fn points(t: &mut Bench, label: &str, rows: usize, heads: usize, elements: usize, size: f32) -> Tensor {
    let cols = heads * elements;
    let (offset, stride) = if elements.is_multiple_of(4) { (0, cols) } else { (3, cols + 1) };
    let mut all = t.random_values(offset + rows * stride);
    for r in 0..rows {
        for (h, point) in all[offset + r * stride..][..cols].chunks_mut(elements).enumerate() {
            let size = size * 0.5f32.powi(((r + h) % 9) as i32) / (elements as f32).sqrt();
            point.iter_mut().for_each(|v| *v *= size);
            // Times as large as spaces, inside and outside of the cone.
            point[0] *= 1.5 * (elements as f32).sqrt();
        }
    }
    Tensor { slot: t.floats(label, &all), offset, rows, cols, stride }
}

#[test]
fn maps_and_their_gradients_match_the_twin() {
    for (_, facts) in all_facts() {
        for (i, elements) in SIZES.into_iter().enumerate() {
            for (heads, rows) in [(1, 0), (1, 1), (4, 1), (1, 7), (4, 7), (1, 130), (4, 130)] {
                let mut t = Bench::new(&facts, (10 * i + rows) as u64);
                let x = points(&mut t, "x", rows, heads, elements, 30.0);
                let cols = heads * elements;
                let dy = if elements % 4 == 0 { t.random_dense("dy", rows, cols) } else { t.random("dy", rows, cols) };
                let (y, dx, ds) = (t.poisoned("y", rows, cols), t.poisoned("dx", rows, cols), t.random("ds", rows, heads));
                for map in maps(&mut t) {
                    lorentz(&mut t.builder, "map", &map, heads, &x, &y).unwrap();
                    let ds = matches!(map, Map::Rescale { .. }).then_some(&ds);
                    lorentz_backward(&mut t.builder, "backward", &map, heads, &x, &dy, &dx, ds).unwrap();
                }
                t.verify(&y);
            }
        }
    }
}

#[test]
fn rows_beyond_a_binding_are_cut() {
    let (_, facts) = &all_facts()[2];
    for (rows, heads, elements) in [(20_000, 1, 16), (2048, 4, 65)] {
        let mut t = Bench::new(facts, 4);
        let (x, y) = (points(&mut t, "x", rows, heads, elements, 3.0), t.poisoned("y", rows, heads * elements));
        let ds = t.poisoned("ds", rows, heads);
        let [rescale, ..] = maps(&mut t);
        lorentz(&mut t.builder, "map", &rescale, heads, &x, &y).unwrap();
        lorentz_backward(&mut t.builder, "backward", &rescale, heads, &x, &x.clone(), &y, Some(&ds)).unwrap();
        t.verify(&y);
    }
}

/// `|<y,y>_L + 1|` against `y_0^2`.
fn off_manifold(y: &[f32]) -> f64 {
    let squares: f64 = y[1..].iter().map(|v| f64::from(*v).powi(2)).sum();
    let time = f64::from(y[0]).powi(2);
    (squares - time + 1.0).abs() / time
}

#[test]
fn images_lie_on_the_manifold() {
    for (_, facts) in all_facts() {
        for elements in SIZES {
            for size in [0.02, 1.0, 9.0, 300.0] {
                for kind in [0, 1, 2] {
                    let mut t = Bench::new(&facts, elements as u64);
                    let map = maps(&mut t)[kind];
                    let mut x = points(&mut t, "x", 65, 1, elements, size);
                    if kind == 1 {
                        // A sum of points with weights above 0.
                        let sums = 65 * elements;
                        let mut all = vec![0.0f32; sums];
                        for weight in [0.1, 0.7, 2.0] {
                            let spaces: Vec<f32> = t.random_values(sums).iter().map(|v| v * size.min(30.0)).collect();
                            for (sum, v) in all.chunks_mut(elements).zip(spaces.chunks(elements)) {
                                let time = v[1..].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
                                sum[0] += (weight * (1.0 + time).sqrt()) as f32;
                                sum[1..].iter_mut().zip(&v[1..]).for_each(|(s, v)| *s += weight as f32 * v);
                            }
                        }
                        x = Tensor { slot: t.floats("sums", &all), offset: 0, rows: 65, cols: elements, stride: elements };
                    }
                    let y = t.poisoned("y", 65, elements);
                    lorentz(&mut t.builder, "map", &map, 1, &x, &y).unwrap();
                    let (values, _) = t.verify_all(&[&x, &y]);
                    let rows = values[0].chunks(elements).zip(values[1].chunks(elements));
                    // Below the clamp a rescaled point is off it.
                    let whole = rows.filter(|(x, _)| kind != 0 || x[1..].iter().map(|v| v * v).sum::<f32>() > 1e-8);
                    let worst = whole.map(|(_, y)| off_manifold(y)).fold(0.0, f64::max);
                    assert!(worst <= 1e-4, "{map:?} of {elements} elements to {size}: {worst:e}");
                }
            }
        }
    }
}

#[test]
fn zeros_and_long_vectors_are_clamped() {
    for (_, facts) in all_facts() {
        for elements in [2, 16, 17, 65, 576] {
            let mut t = Bench::new(&facts, 3);
            // All zeros; below every clamp; squares that underflow; beyond the largest norm; far beyond.
            let sizes = [0.0, 1e-6, 1e-25, 12.0, 1e6];
            let all: Vec<f32> =
                sizes.iter().flat_map(|s| (0..elements).map(move |i| if i == 1 { *s } else { 0.3 * s / elements as f32 })).collect();
            let x = Tensor { slot: t.floats("x", &all), offset: 0, rows: 5, cols: elements, stride: elements };
            let dy = t.random_dense("dy", 5, elements);
            let ds = t.poisoned("ds", 5, 1);
            let maps = maps(&mut t);
            let outputs: Vec<[Tensor; 2]> = maps.iter().map(|_| ["y", "dx"].map(|label| t.poisoned(label, 5, elements))).collect();
            for (map, [y, dx]) in maps.iter().zip(&outputs) {
                lorentz(&mut t.builder, "map", map, 1, &x, y).unwrap();
                let ds = matches!(map, Map::Rescale { .. }).then_some(&ds);
                lorentz_backward(&mut t.builder, "backward", map, 1, &x, &dy, dx, ds).unwrap();
            }
            let all: Vec<&Tensor> = outputs.iter().flatten().collect();
            let (values, _) = t.verify_all(&all);
            assert!(values.iter().flatten().all(|v| v.is_finite()));
            let exp0 = &values[4];
            assert_eq!((exp0[0], exp0[1]), (1.0, 0.0));
            assert!((exp0[2 * elements + 1] / 1e-25 - 1.0).abs() < 1e-6, "the limit of short vectors is themselves");
            for row in [3, 4] {
                assert!((exp0[row * elements] / 10f32.cosh() - 1.0).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 0);
    let (x, y, ds) = (t.random_dense("x", 3, 12), t.poisoned("y", 3, 12), t.poisoned("ds", 3, 2));
    let dy = t.random_dense("dy", 3, 12);
    let [rescale, centroid, ..] = maps(&mut t);
    let b = &mut t.builder;
    for heads in [0, 5, 12, 13] {
        assert!(lorentz(b, "map", &centroid, heads, &x, &y).unwrap_err().to_string().contains("points of 2 elements"));
    }
    assert!(lorentz(b, "map", &centroid, 2, &x, &y.slice_rows(0..2)).is_err());
    assert!(lorentz(b, "map", &centroid, 2, &x, &x).is_err(), "in place");
    let scale = (x.slot, 1 << 20);
    assert!(lorentz(b, "map", &Map::Rescale { scale }, 2, &x, &y).is_err(), "a scale beyond its slot");
    let mut back = |map: &Map, dy: &Tensor, dx: &Tensor, ds: Option<&Tensor>| lorentz_backward(b, "back", map, 2, &x, dy, dx, ds);
    assert!(back(&rescale, &dy, &y, None).unwrap_err().to_string().contains("ds"));
    assert!(back(&centroid, &dy, &y, Some(&ds)).is_err());
    assert!(back(&rescale, &dy, &y, Some(&ds.slice_rows(0..2))).is_err());
    assert!(back(&rescale, &dy, &y, Some(&y)).is_err());
    assert!(back(&centroid, &dy.slice_cols(0..8), &y, None).is_err());
    assert!(back(&centroid, &dy, &dy, None).is_err(), "in place");
    back(&rescale, &dy, &y, Some(&ds)).unwrap();
}
