use super::linear::{formats, k_quants};
use super::{Bench, all_facts};
use etalon::kernel::embedding::{Ids, embedding};
use etalon::kernel::state::State;
use etalon::tensor::Format;

#[test]
fn every_format_is_decoded_bit_for_bit() {
    for (_, facts) in all_facts() {
        for (i, format) in formats().into_iter().chain(k_quants()).enumerate() {
            let cols = if i >= formats().len() { 512 } else { 65 };
            let mut t = Bench::new(&facts, i as u64);
            let (table, values) = t.weights(format, 23, cols);
            let ids = [0u32, 22, 7, 7, 13];
            let slot = t.words("ids", &ids);
            let y = t.poisoned("y", ids.len(), cols);
            embedding(&mut t.builder, "embed", &Ids::Buffer(slot, 0), &table, &y, false).unwrap();
            let got = t.verify(&y);
            for (r, id) in ids.iter().enumerate() {
                let want = &values[*id as usize * cols..][..cols];
                assert!(got[r * cols..][..cols].iter().zip(want).all(|(a, b)| a.to_bits() == b.to_bits()), "{format:?} row {r}");
            }
        }
    }
}

#[test]
fn positions_are_added_and_a_large_table_is_cut() {
    let facts = all_facts().remove(2).1;
    let mut t = Bench::new(&facts, 3);
    let (tokens, _) = t.weights(Format::F32, 3000, 577);
    assert!(tokens.segments.len() > 1);
    let (positions, _) = t.weights(Format::F16, 20, 577);
    let ids = t.words("ids", &[2999, 0, 1500, 451, 452, 453]);
    let states: Vec<u32> = [0, 5].iter().flat_map(|l| State { length: *l, count: 3, ..State::default() }.words()).collect();
    let state = t.words("state", &states);
    let y = t.poisoned("y", 6, 577);
    embedding(&mut t.builder, "tokens", &Ids::Buffer(ids, 0), &tokens, &y, false).unwrap();
    embedding(&mut t.builder, "positions", &Ids::Position { state, sequence_rows: 3, add: 2 }, &positions, &y, true).unwrap();
    t.verify(&y);
}
