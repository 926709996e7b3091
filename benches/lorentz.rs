use super::Bed;
use criterion::Criterion;
use etalon::kernel::lorentz::{Map, lorentz, lorentz_backward};

/// Embeddings of a graph's nodes, and the heads of an attention.
pub(super) fn bench(c: &mut Criterion) {
    for (rows, heads, elements) in [(20_000, 1, 16), (2048, 4, 64), (2048, 1, 576)] {
        for (name, kind) in [("rescale", 0), ("centroid", 1), ("exp0", 2), ("log0", 3)] {
            for back in [false, true] {
                let mut bed = Bed::new();
                let cols = heads * elements;
                let (x, dy, y, ds) = (bed.tensor(rows, cols), bed.tensor(rows, cols), bed.tensor(rows, cols), bed.tensor(rows, heads));
                let map = [Map::Rescale { scale: (bed.tensor(1, 1).slot, 0) }, Map::Centroid, Map::Exp0, Map::Log0][kind];
                match back {
                    false => lorentz(&mut bed.builder, "map", &map, heads, &x, &y).unwrap(),
                    true => lorentz_backward(&mut bed.builder, "map", &map, heads, &x, &dy, &y, (kind == 0).then_some(&ds)).unwrap(),
                }
                let way = if back { " backward" } else { "" };
                bed.measure(c, "lorentz", &format!("{name}{way} {rows}x{heads}x{elements}"));
            }
        }
    }
}
