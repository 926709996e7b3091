//! Windows, row chunks and cuts of grids: what every kernel relies on.

use etalon::kernel::{Access, Variant};
use etalon::plan::{Builder, OpSpec, Twin};
use etalon::{Error, Facts};
use proptest::prelude::*;

fn facts(max_binding: u64) -> Facts {
    Facts { max_binding, ..Facts::browser(None) }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn a_window_covers_its_words_within_slot_and_limit(words in 0usize..5000, start in 0usize..5200, len in 0usize..5200, limit in 1u64..100) {
        let mut b = Builder::new("test", &facts(256 * limit));
        let slot = b.external("slot", words);
        let capacity = (4 * words.max(1) as u64).next_multiple_of(256);
        let (first, last) = (4 * start as u64, 4 * (start + len.max(1)) as u64);
        match b.window(slot, start..start + len) {
            Ok(w) => {
                prop_assert!(w.binding.offset.is_multiple_of(256) && w.binding.size.is_multiple_of(4) && w.binding.size > 0);
                prop_assert!(w.binding.size <= 256 * limit);
                prop_assert!(w.binding.offset + w.binding.size <= capacity);
                prop_assert_eq!(w.binding.offset + 4 * u64::from(w.offset), first);
                prop_assert_eq!(w.binding.offset + w.binding.size, last);
                prop_assert!(w.offset < 64, "begins in the first 256 bytes");
            }
            Err(Error::Plan { .. }) => prop_assert!(last > capacity),
            Err(Error::Limit { .. }) => prop_assert!(last - first / 256 * 256 > 256 * limit),
            Err(e) => prop_assert!(false, "{e}"),
        }
    }

    #[test]
    fn row_chunks_cover_all_rows_once_and_fit_wherever_they_begin(
        rows in 0usize..3000, per_row in 0usize..3000, offset in 0usize..200, limit in 1u64..200,
    ) {
        let mut b = Builder::new("test", &facts(256 * limit));
        let Ok(chunks) = b.row_chunks(rows, per_row) else {
            prop_assert!(4 * per_row.max(1) as u64 > 256 * (limit - 1));
            return Ok(());
        };
        let slot = b.external("slot", offset + rows * per_row);
        let mut next = 0;
        for c in chunks {
            prop_assert!(c.start == next && !c.is_empty());
            next = c.end;
            if per_row > 0 {
                prop_assert!(b.window(slot, offset + c.start * per_row..offset + c.end * per_row).is_ok(), "rows {c:?}");
            }
        }
        prop_assert_eq!(next, rows);
    }

    #[test]
    fn cuts_cover_a_grid_once(grid in [1u32..200, 1u32..40, 1u32..4], limit in 1u32..90, bytes in 0u64..10_000_000_000) {
        let mut facts = facts(1 << 20);
        facts.limits.max_compute_workgroups_per_dimension = limit;
        let mut b = Builder::new("test", &facts);
        let slot = b.external("slot", 1);
        let bindings = vec![b.whole(slot).unwrap()];
        let variant = Variant { kernel: "test", source: "", defines: Vec::new(), access: &[Access::Write], subgroup: None };
        let twin = Twin::new(|_| Vec::new());
        b.push(OpSpec { label: "op".into(), variant, params: Vec::new(), bindings, grid, bytes, flops: 0, twin }).unwrap();
        let plan = b.finish().unwrap();
        let mut seen = vec![0u8; grid.iter().product::<u32>() as usize];
        for (origin, size) in plan.ops()[0].cuts() {
            prop_assert!(size.iter().all(|s| (1..=limit).contains(s)));
            for z in 0..size[2] {
                for y in 0..size[1] {
                    for x in 0..size[0] {
                        let at = (((origin[2] + z) * grid[1] + origin[1] + y) * grid[0] + origin[0] + x) as usize;
                        seen[at] += 1;
                    }
                }
            }
        }
        prop_assert!(seen.iter().all(|n| *n == 1));
        let estimate = 1e3 * bytes as f64 / facts.rates().0;
        let pieces = (estimate / facts.max_dispatch_ms).ceil() as usize;
        let longest = *grid.iter().max().unwrap() as usize;
        prop_assert!(plan.dispatches() >= pieces.min(longest).div_ceil(2), "{} dispatches for {pieces} pieces", plan.dispatches());
    }
}

/// What is staged for uploads is let go on the way: many small buffers take little more than their own bytes before anything runs.
#[test]
fn uploads_do_not_pile_up() {
    let c = pollster::block_on(etalon::Context::new(&etalon::ContextOptions::default())).unwrap();
    let allocated = || c.device().generate_allocator_report().map(|r| r.total_allocated_bytes);
    // Not every backend tells.
    let Some(before) = allocated() else { return };
    let words = vec![7u32; 1 << 20];
    let kept: Vec<_> = (0..24).map(|_| c.upload("test", &words).unwrap()).collect();
    let more = allocated().unwrap() - before;
    let own: u64 = kept.iter().map(|b| b.size()).sum();
    // 8 MiB wait for a submission, and one buffer may be on its way; small things of the device come and go.
    assert!(more + (1 << 16) >= own && more <= own + (12 << 20), "{more} bytes for {own}");
}
