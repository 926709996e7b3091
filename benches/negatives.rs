use super::Bed;
use criterion::Criterion;
use etalon::kernel::negatives::{Negatives, draw_negatives, incidence};
use etalon::kernel::progress::Progress;

pub(super) fn bench(c: &mut Criterion) {
    // A ring.
    let (nodes, count) = (2708u32, 5000);
    let offsets: Vec<u32> = (0..=nodes).map(|n| 2 * n).collect();
    let columns: Vec<u32> = (0..nodes)
        .flat_map(|n| {
            let mut pair = [(n + 1) % nodes, (n + nodes - 1) % nodes];
            pair.sort_unstable();
            pair
        })
        .collect();
    let mut bed = Bed::new();
    let progress = bed.words(&Progress::default().words());
    let (offsets, columns) = (bed.words(&offsets), bed.words(&columns));
    let n = Negatives { nodes: nodes as usize, count, offsets, columns, entries: 2 * nodes as usize, progress, stream: 0 };
    let [from, to, targets] = [(); 3].map(|()| bed.words(&vec![0; count]));
    let [indices, entries] = [(); 2].map(|()| bed.words(&vec![0; n.nodes * n.width()]));
    draw_negatives(&mut bed.builder, "draw", &n, from, to, targets).unwrap();
    incidence(&mut bed.builder, "incidence", &n, (from, to, targets), indices, entries, (1, 0)).unwrap();
    bed.measure(c, "negatives", "5000 of 2708");
}
