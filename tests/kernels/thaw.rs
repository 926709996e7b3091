use super::{Bench, all_facts};
use etalon::kernel::thaw::{Rows, thaw};
use etalon::tensor::{PackedRows, Packing};
use rand::RngExt;

/// Random packed rows after 2 words of something else; halves of every size but infinite.
pub fn packed(t: &mut Bench, packing: Packing, rows: usize, cols: usize) -> PackedRows {
    let row = packing.row_words(cols);
    let mut words: Vec<u32> = (0..2 + rows * row).map(|_| t.rng.random::<u32>() & 0xBBFF_BBFF).collect();
    if packing == Packing::Int8 {
        (0..rows).for_each(|r| words[1 + (r + 1) * row] = t.rng.random_range(0.001f32..1.0).to_bits() & !127);
    }
    PackedRows { slot: t.words("packed", &words), offset: 2, rows, cols, packing }
}

/// Ascending numbers below k, behind 3 others.
pub fn list(t: &mut Bench, k: usize, r: usize) -> Vec<u32> {
    let mut all: Vec<u32> = (0..k as u32).collect();
    (0..r).for_each(|i| all.swap(i, t.rng.random_range(i..k)));
    all[..r].sort_unstable();
    [vec![7, 7, 7], all[..r].to_vec()].concat()
}

const SHAPES: [(usize, usize, usize); 9] =
    [(1, 1, 1), (5, 65, 2), (64, 576, 63), (33, 577, 33), (3, 4, 1), (300, 768, 64), (600, 577, 17), (257, 130, 255), (20, 2053, 7)];

#[test]
fn all_listed_and_overlaid_rows_match_the_twin() {
    for (_, facts) in all_facts() {
        for (k, n, r) in SHAPES {
            for packing in [Packing::F16, Packing::Int8] {
                for which in 0..3 {
                    let mut t = Bench::new(&facts, (n * r + which) as u64);
                    let x = packed(&mut t, packing, k, n);
                    let mut chosen = list(&mut t, k, r);
                    let (rows, overlaid) = if which == 1 { (r, false) } else { (k, which == 2) };
                    if which == 1 {
                        chosen[3] = 77_777; // counts as the last
                    }
                    let slot = t.words("indices", &chosen);
                    let active = if n % 2 == 0 { t.random_dense("active", r, n) } else { t.random("active", r, n) };
                    let y = t.poisoned("y", rows, n);
                    let all = [Rows::All, Rows::Listed(slot, 3), Rows::Overlaid(active, (slot, 3))];
                    thaw(&mut t.builder, "thaw", &x, &all[which], &y).unwrap();
                    let (got, _) = t.verify_all(&[&y, &active]);
                    for (j, i) in chosen[3..].iter().enumerate().filter(|_| overlaid) {
                        assert_eq!(got[0][*i as usize * n..][..n], got[1][j * n..][..n], "row {i}");
                    }
                }
            }
        }
    }
}

/// The decoding of every half but infinities and NaN, by the standard library's reading of its definition.
#[test]
fn every_half_is_exact() {
    let halves: Vec<u16> = (0..=u16::MAX).filter(|h| h & 0x7C00 != 0x7C00).collect();
    let mut t = Bench::new(&all_facts()[0].1, 0);
    let words: Vec<u32> = halves.chunks(2).map(|h| u32::from(h[0]) | u32::from(h[1]) << 16).collect();
    let x = PackedRows { slot: t.words("packed", &words), offset: 0, rows: 62, cols: 1024, packing: Packing::F16 };
    let y = t.poisoned("y", 62, 1024);
    thaw(&mut t.builder, "thaw", &x, &Rows::All, &y).unwrap();
    for (h, got) in halves.iter().zip(t.verify(&y)) {
        let (exponent, fraction) = (i32::from(h >> 10 & 31), f32::from(h & 0x3FF));
        let size = if exponent == 0 { fraction * 2f32.powi(-24) } else { (1024.0 + fraction) * 2f32.powi(exponent - 25) };
        assert_eq!(got.to_bits(), (if h >> 15 == 1 { -size } else { size }).to_bits(), "{h:#x}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut t = Bench::new(&all_facts()[2].1, 1);
    let x = packed(&mut t, Packing::F16, 4, 8);
    let (y, few, wide) = (t.poisoned("y", 4, 8), t.poisoned("few", 3, 8), t.poisoned("wide", 4, 9));
    let slot = t.words("indices", &[0; 64]);
    thaw(&mut t.builder, "rows", &x, &Rows::All, &few).unwrap_err();
    thaw(&mut t.builder, "cols", &x, &Rows::All, &wide).unwrap_err();
    thaw(&mut t.builder, "active", &x, &Rows::Overlaid(wide, (slot, 0)), &y).unwrap_err();
    thaw(&mut t.builder, "none", &x.slice_rows(0..0), &Rows::Listed(slot, 0), &few).unwrap_err();
    assert!(thaw(&mut t.builder, "list", &x, &Rows::Listed(slot, 62), &few).unwrap_err().to_string().contains("indices"));
    let large = packed(&mut t, Packing::F16, 600, 1024);
    let part = t.poisoned("part", 2, 1024);
    assert!(thaw(&mut t.builder, "large", &large, &Rows::Listed(slot, 0), &part).unwrap_err().to_string().contains("binding_size"));
}
