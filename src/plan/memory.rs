//! Memory by liveness: transient slots share whole buffers when they are never alive at the same time.
//!
//! Whole buffers and never ranges of one, since wgpu tracks usage per buffer: a dispatch may not read one range of a buffer
//! and write another.

use super::{Op, Slot, SlotKind};
use crate::kernel::Access;

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
    order.sort_by_key(|s| lives[*s].map(|l| l.0));
    let mut sizes: Vec<u64> = Vec::new();
    let mut free_from: Vec<usize> = Vec::new(); // first op index at which the buffer is free
    let mut buffer = vec![None; slots.len()];
    for s in order {
        let Some((first, last)) = lives[s] else { continue };
        let bytes = slots[s].bytes;
        let free = (0..sizes.len()).filter(|b| free_from[*b] <= first);
        // The smallest that is large enough, else the largest, which grows.
        let best = free.min_by_key(|b| if sizes[*b] >= bytes { (0, sizes[*b]) } else { (1, u64::MAX - sizes[*b]) });
        let b = best.unwrap_or_else(|| {
            sizes.push(0);
            free_from.push(0);
            sizes.len() - 1
        });
        sizes[b] = sizes[b].max(bytes);
        free_from[b] = last + 1;
        buffer[s] = Some(b);
    }
    let mut rank: Vec<usize> = (0..sizes.len()).collect();
    rank.sort_by_key(|b| std::cmp::Reverse(sizes[*b]));
    let mut place = vec![0; rank.len()];
    for (i, b) in rank.iter().enumerate() {
        place[*b] = i;
    }
    Ok(MemoryPlan {
        buffer: buffer.into_iter().map(|b| b.map(|b| place[b])).collect(),
        sizes: rank.iter().map(|b| sizes[*b]).collect(),
    })
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
