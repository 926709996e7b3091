//! Running a decomposition: plans, and what the host decides between them.

use super::svd::{LayerReport, Polar, Report, Stage, Svd};
use crate::gpu::Buffer;
use crate::kernel::svd::STATE_WORDS;
use crate::plan::Bound;
use crate::{Error, Result};

/// Places of buffers in the scratch.
const STATE: usize = 3;
const PEAKS: usize = 6;
/// Most steps towards the polar factor: a singular value of 0.01 of the square side needs them, and rotations are faster beyond.
const STEPS: u32 = 14;
/// Distance from orthonormal that one more step brings down to rounding: with k rows, 0.75 k of its square at worst.
const NEAR: f32 = 1e-5;

/// Layers with what is wrong with them.
fn fault(why: &str, layers: &[String]) -> Error {
    Error::Request(format!("svd of {}: {why}; nothing was changed", layers.join(", ")))
}

impl Svd {
    /// Decomposes. Factors are written by the last submission only, after everything succeeded.
    ///
    /// # Errors
    /// [`Error::Request`] naming the layers that hold infinities or NaN, or whose rows did not become orthogonal within the
    /// sweeps, or where a run in slices holds the workspace; [`Error::DeviceLost`]. All factors are then as they were.
    pub async fn run(&self) -> Result<Report> {
        self.go(false).await
    }

    /// The same, each dispatch judged by its CPU twin.
    ///
    /// # Errors
    /// As [`Svd::run`]; [`Error::Mismatch`].
    pub async fn verify(&self) -> Result<Report> {
        self.go(true).await
    }

    async fn go(&self, judged: bool) -> Result<Report> {
        let scales = self.measured(judged).await?;
        let fresh: Vec<u32> = scales.iter().flat_map(|s| [[0; 8].as_slice(), s, &[0; 5]].concat()).collect();
        self.context.write(self.buffer(STATE), 0, &fresh)?;
        play(&self.load, judged).await?;
        let named = |n: &String| LayerReport { name: n.clone(), ..LayerReport::default() };
        let mut report = Report { layers: self.names.iter().map(named).collect() };
        let mut stages = self.stages.as_slice();
        if let (Some(polar), [first, rest @ ..]) = (&self.polar, stages) {
            stages = rest;
            let found = self.polar(polar, judged, &mut report).await?;
            if found.contains(&false) {
                let mut state = fresh.clone();
                for (own, found) in state.chunks_mut(STATE_WORDS).zip(&found) {
                    own[0] = u32::from(*found);
                }
                self.context.write(self.buffer(STATE), 0, &state)?;
                self.stage(first, judged, &mut report).await?;
            }
        }
        for stage in stages {
            self.context.write(self.buffer(STATE), 0, &fresh)?;
            self.stage(stage, judged, &mut report).await?;
        }
        play(&self.commit, judged).await?;
        Ok(report)
    }

    fn buffer(&self, i: usize) -> &Buffer {
        &self.scratch.0[i]
    }

    async fn words(&self, i: usize) -> Result<Vec<u32>> {
        let bytes = 4 * self.size.words()[i] as u64;
        Ok(self.context.read_ranges(&[(self.buffer(i), 0..bytes)])?.words().await?.remove(0))
    }

    async fn state(&self) -> Result<Vec<Vec<u32>>> {
        Ok(self.words(STATE).await?.chunks(STATE_WORDS).map(<[u32]>::to_vec).collect())
    }

    fn clear_peaks(&self) -> Result<()> {
        self.context.write(self.buffer(PEAKS), 0, &vec![0; self.size.words()[PEAKS]])
    }

    /// Three words a layer, behind those of the sweeps.
    async fn peaks(&self) -> Result<Vec<Vec<u32>>> {
        Ok(self.words(PEAKS).await?[self.size.layers..].chunks(3).map(<[u32]>::to_vec).collect())
    }

    /// Scales of X and Y and what undoes both, for each layer, such that the largest entries are near 1.
    async fn measured(&self, judged: bool) -> Result<Vec<[u32; 3]>> {
        self.clear_peaks()?;
        play(&self.measure, judged).await?;
        let peaks = self.peaks().await?;
        self.clear_peaks()?;
        let bad = |(name, p): (&String, &Vec<u32>)| {
            let which = self.parts.iter().zip(p).find(|(_, w)| **w >= f32::INFINITY.to_bits());
            which.map(|(part, _)| format!("`{name}` ({part})"))
        };
        let bad: Vec<String> = self.names.iter().zip(&peaks).filter_map(bad).collect();
        if !bad.is_empty() {
            return Err(fault("there are infinities or NaN", &bad));
        }
        // Exponents of two; zero has that of 1.
        let exponent = |w: u32| if w == 0 { 0 } else { (w >> 23) as i32 - 127 };
        let power = |e: i32| 2f32.powi(e.clamp(-126, 126));
        let scales = |p: &Vec<u32>| {
            let [x, y] = self.scaled_by.map(|parts| parts.iter().map(|i| -exponent(p[*i])).sum::<i32>());
            [power(x), power(y), power(-x - y)].map(f32::to_bits)
        };
        Ok(peaks.iter().map(scales).collect())
    }

    /// Which layers' square sides became orthonormal; the others are as they were, but for unit length.
    async fn polar(&self, polar: &Polar, judged: bool, report: &mut Report) -> Result<Vec<bool>> {
        play(&polar.prepare, judged).await?;
        // Rows without a direction have no nearest orthonormal ones.
        let mut todo: Vec<usize> = self.state().await?.iter().enumerate().filter(|(_, s)| s[1] == 0).map(|(i, _)| i).collect();
        let mut found = vec![false; self.size.layers];
        for step in 1..=STEPS {
            self.clear_peaks()?;
            for i in &todo {
                play(&polar.layers[*i][0], judged).await?;
            }
            let peaks = self.peaks().await?;
            todo.retain(|i| {
                let distance = f32::from_bits(peaks[*i][0]);
                let layer = &mut report.layers[*i];
                if step == 1 {
                    layer.drift = distance;
                }
                found[*i] = distance <= NEAR;
                layer.steps = if found[*i] { step } else { 0 };
                !found[*i] && distance.is_finite()
            });
            if todo.is_empty() {
                break;
            }
        }
        self.clear_peaks()?;
        for (layer, found) in polar.layers.iter().zip(&found) {
            play(&layer[if *found { 1 } else { 2 }], judged).await?;
        }
        Ok(found)
    }

    async fn stage(&self, stage: &Stage, judged: bool, report: &mut Report) -> Result<()> {
        let state = self.sweeps(stage, judged).await?;
        play(&stage.finish, judged).await?;
        let nulls: Vec<u32> = self.state().await?.iter().map(|s| s[1]).collect();
        for ((layer, state), nulls) in report.layers.iter_mut().zip(&state).zip(&nulls) {
            layer.sweeps += state[6];
            layer.completed += *nulls;
        }
        self.complete(stage, judged, nulls).await?;
        match &stage.pass_on {
            Some(pass_on) => play(pass_on, judged).await,
            None => Ok(()),
        }
    }

    /// Sweeps until every layer is done.
    async fn sweeps(&self, stage: &Stage, judged: bool) -> Result<Vec<Vec<u32>>> {
        for sweep in 0.. {
            play(&stage.sweep, judged).await?;
            let state = self.state().await?;
            let late: Vec<usize> = (0..state.len()).filter(|i| state[*i][0] == 0).collect();
            if late.is_empty() {
                return Ok(state);
            }
            let lost = late.iter().any(|i| state[*i][4] >= f32::INFINITY.to_bits());
            if sweep >= self.options.sweeps || lost {
                let shown = |i: &usize| format!("`{}` (largest cosine {:.1e})", self.names[*i], f32::from_bits(state[*i][4]));
                let why = format!("rows are not orthogonal after {sweep} sweeps");
                return Err(fault(&why, &late.iter().map(shown).collect::<Vec<_>>()));
            }
        }
        Ok(Vec::new())
    }

    /// Gives directions to the rows that count as zero.
    async fn complete(&self, stage: &Stage, judged: bool, mut nulls: Vec<u32>) -> Result<()> {
        // An attempt with random numbers fails now and then.
        let mut left = 2 * self.size.k() + 8;
        while let Some(most) = nulls.iter().copied().max().filter(|n| *n > 0) {
            if left == 0 {
                let stuck = self.names.iter().zip(&nulls).filter(|(_, n)| **n > 0).map(|(name, _)| format!("`{name}`"));
                return Err(fault("no free direction was found for rows that are zero", &stuck.collect::<Vec<_>>()));
            }
            let now = if judged { 1 } else { (most as usize).min(64).min(left) };
            left -= now;
            if judged {
                play(&stage.complete, true).await?
            } else {
                stage.complete.run(now).map(drop)?
            }
            nulls = self.state().await?.iter().map(|s| s[1]).collect();
        }
        Ok(())
    }
}

async fn play(bound: &Bound, judged: bool) -> Result<()> {
    if judged { bound.verify().await.map(drop) } else { bound.run(1).map(drop) }
}
