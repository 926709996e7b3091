use super::Bed;
use criterion::Criterion;
use etalon::kernel::spmm::{Spmm, spmm};
use etalon::tensor::{Csr, SparseData, SparsePair};

/// Graphs of PubMed's and Cora's sizes, each node with itself and its neighbours.
pub(super) fn bench(c: &mut Criterion) {
    for (nodes, degree, cols) in [(19_717, 5, 256), (19_717, 5, 16), (2_708, 4, 16)] {
        let mut t = Bed::new();
        let neighbour = |r: usize, i: usize| if i == 0 { r } else { (r * 7919 + i * 104_729) % nodes };
        let entries = (0..nodes).flat_map(|r| (0..=degree).map(move |i| (r as u32, neighbour(r, i) as u32, 0.2)));
        let data = SparseData::from(&Csr::from_entries(nodes, nodes, entries.collect()).unwrap());
        let (pair, slots) = SparsePair::external(&mut t.builder, "graph", &data.extent);
        for (slot, words) in slots.into_iter().zip(&data.words) {
            let buffer = t.context.upload("graph", words).unwrap();
            t.bound.push((slot, buffer));
        }
        let (x, y) = (t.tensor(nodes, cols), t.tensor(nodes, cols));
        spmm(&mut t.builder, "spmm", &pair.matrix, &x, &y, &Spmm::default()).unwrap();
        t.measure(c, "spmm", &format!("{nodes} nodes, {cols} columns"));
    }
}
