//! Memory by liveness: transient slots share whole buffers when they are never alive at the same time.
//!
//! Whole buffers and never ranges of one, since wgpu tracks usage per buffer: a dispatch may not read one range of a buffer
//! and write another.

use super::{Op, Slot, SlotKind};
use crate::kernel::Access;
use std::collections::BTreeMap;

/// Which workspace buffer each transient slot lies in, and how large each must be.
#[derive(Debug, Default)]
pub(crate) struct MemoryPlan {
    /// By slot; `None` for external slots and for transient ones that nothing uses.
    pub(crate) buffer: Vec<Option<usize>>,
    /// Bytes of each workspace buffer, largest first, so that the buffers of different plans match up.
    pub(crate) sizes: Vec<u64>,
}

pub(crate) fn plan(slots: &[Slot], ops: &[Op]) -> Result<MemoryPlan, String> {
    let lives = lives(slots, ops)?;
    let mut order: Vec<usize> = (0..slots.len()).filter(|s| lives[*s].is_some()).collect();
    // Large slots first: a small one that lives long then never takes a buffer that a later large one could have shared.
    order.sort_by_key(|s| (std::cmp::Reverse(slots[*s].bytes), lives[*s].map(|l| l.0)));
    let mut sizes: Vec<u64> = Vec::new();
    let mut taken: Vec<BTreeMap<usize, usize>> = Vec::new(); // from the first to the last op of each slot in the buffer
    let mut buffer = vec![None; slots.len()];
    for s in order {
        let Some((first, last)) = lives[s] else { continue };
        let free = |t: &BTreeMap<usize, usize>| t.range(..=last).next_back().is_none_or(|(_, end)| *end < first);
        // All are large enough; the last one is the smallest.
        let b = taken.iter().rposition(free).unwrap_or_else(|| {
            sizes.push(slots[s].bytes);
            taken.push(BTreeMap::new());
            sizes.len() - 1
        });
        taken[b].insert(first, last);
        buffer[s] = Some(b);
    }
    Ok(MemoryPlan { buffer, sizes })
}

/// First and last op that touch each transient slot.
fn lives(slots: &[Slot], ops: &[Op]) -> Result<Vec<Option<(usize, usize)>>, String> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; slots.len()];
    for (i, op) in ops.iter().enumerate() {
        // Writes first: an op may read one part of what it writes itself (in place) only after an earlier write.
        for (j, b) in op.bindings.iter().enumerate() {
            let s = b.slot.0 as usize;
            if slots[s].kind != SlotKind::Transient {
                continue;
            }
            match &mut lives[s] {
                Some(l) => l.1 = i,
                None if op.access(j) == Access::Write => lives[s] = Some((i, i)),
                None => return Err(format!("{} reads slot `{}` before anything wrote it", op.label, slots[s].label)),
            }
        }
    }
    Ok(lives)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Variant;
    use crate::plan::{Binding, SlotId, Twin};
    use proptest::prelude::*;

    /// An op that reads some slots and writes others.
    fn op(uses: &[(usize, bool)]) -> Op {
        let access: Vec<_> = uses.iter().map(|(_, writes)| if *writes { Access::Write } else { Access::Read }).collect();
        let variant = Variant { kernel: "test", source: "", defines: Vec::new(), access: access.leak(), subgroup: None };
        let bindings = uses.iter().map(|(slot, _)| Binding { slot: SlotId(*slot as u32), offset: 0, size: 4 }).collect();
        let cuts = vec![([0; 3], [1; 3])];
        Op { label: "op".into(), variant, params: Vec::new(), bindings, cuts, bytes: 0, flops: 0, twin: Twin::new(|_| Vec::new()) }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]
        #[test]
        fn slots_alive_together_never_share_a_buffer(
            sizes in proptest::collection::vec((1u64..50, proptest::bool::weighted(0.8)), 1..12),
            uses in proptest::collection::vec(proptest::collection::btree_map(0usize..12, any::<bool>(), 1..5), 0..20),
        ) {
            let kind = |transient| if transient { SlotKind::Transient } else { SlotKind::External };
            let slots: Vec<Slot> =
                sizes.iter().map(|(n, t)| Slot { label: "slot".into(), bytes: 256 * n, kind: kind(*t) }).collect();
            let uses: Vec<Vec<(usize, bool)>> =
                uses.iter().map(|u| u.iter().map(|(s, w)| (*s, *w)).filter(|(s, _)| *s < slots.len()).collect()).collect();
            let ops: Vec<Op> = uses.iter().map(|u| op(u)).collect();
            // Written independently of the planner: the ops that use each transient slot.
            let users = |s: usize| (0..uses.len()).filter(|i| uses[*i].iter().any(|(u, _)| *u == s)).collect::<Vec<_>>();
            let transient: Vec<usize> = (0..slots.len()).filter(|s| sizes[*s].1 && !users(*s).is_empty()).collect();
            let starts_with_a_read = transient.iter().any(|s| uses[users(*s)[0]].contains(&(*s, false)));
            let Ok(plan) = plan(&slots, &ops) else {
                prop_assert!(starts_with_a_read);
                return Ok(());
            };
            prop_assert!(!starts_with_a_read);
            prop_assert!(plan.sizes.is_sorted_by(|a, b| a >= b));
            prop_assert_eq!((0..slots.len()).filter(|s| plan.buffer[*s].is_some()).collect::<Vec<_>>(), transient.clone());
            for a in &transient {
                prop_assert!(plan.sizes[plan.buffer[*a].unwrap()] >= slots[*a].bytes);
                for b in transient.iter().filter(|b| *b > a) {
                    let (ua, ub) = (users(*a), users(*b));
                    let together = ua[0] <= ub[ub.len() - 1] && ub[0] <= ua[ua.len() - 1];
                    prop_assert!(!together || plan.buffer[*a] != plan.buffer[*b], "slots {} and {}", a, b);
                }
            }
            // No buffer is larger than some slot in it needs.
            for (i, size) in plan.sizes.iter().enumerate() {
                prop_assert!(transient.iter().any(|s| plan.buffer[*s] == Some(i) && slots[*s].bytes == *size));
            }
        }
    }
}
