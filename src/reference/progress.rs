//! Twin of `shaders/progress.wgsl`.

use crate::kernel::progress::Progress;
use crate::plan::{Expected, Snapshot, Tolerance, Twin};

const MICRO: usize = 1;
const LOSS: usize = 8;
const BAD_LOSS: usize = 9;

pub(crate) fn count_loss() -> Twin {
    Twin::new(|s: &Snapshot| {
        let p: Vec<usize> = s.params()[4..].iter().map(|v| *v as usize).collect();
        let losses: Vec<f64> = s.f32(0)[p[1]..p[1] + p[0]].iter().map(|v| f64::from(*v)).collect();
        let scale = f64::from(s.f32(1)[p[2]]);
        let now = Progress::from_words(s.words(2));
        let before = if now.micro == 0 { 0.0 } else { f64::from(now.loss) };
        let sum: f64 = losses.iter().sum();
        let loss = before + scale * sum;
        let most = f64::from(f32::MAX);
        let finite = [sum, scale * sum, loss].iter().all(|v| v.abs() <= most);
        let want = vec![now.micro.wrapping_add(1), u32::from(now.bad_loss || !finite)];
        let mut all = vec![Expected::Words { binding: 2, at: vec![MICRO, BAD_LOSS], want }];
        all.push(if finite {
            let magnitude = before.abs() + scale.abs() * losses.iter().map(|v| v.abs()).sum::<f64>();
            let tolerance = Tolerance::sum(losses.len());
            Expected::Floats { binding: 2, at: vec![LOSS], want: vec![loss], magnitude: vec![magnitude], tolerance }
        } else {
            // Which infinity, or NaN, is the device's own choice.
            let judge = |w: &[u32]| if f32::from_bits(w[LOSS]).is_finite() { Err("a finite loss".into()) } else { Ok(()) };
            Expected::Choice { binding: 2, at: vec![LOSS], judge: Box::new(judge) }
        });
        all
    })
}

pub(crate) fn end_step() -> Twin {
    Twin::new(|s: &Snapshot| {
        let now = Progress::from_words(s.words(0));
        let line = 4 * (now.step % s.params()[4]) as usize;
        let want = [now.loss.to_bits(), now.norm.to_bits(), now.clip.to_bits(), now.fault];
        let mut all = vec![Expected::Words { binding: 1, at: (line..line + 4).collect(), want: want.into() }];
        if now.fault == 0 && !now.bad_loss {
            all.push(Expected::Words { binding: 0, at: vec![0, MICRO], want: vec![now.step.wrapping_add(1), 0] });
        }
        all
    })
}
