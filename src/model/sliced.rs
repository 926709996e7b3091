//! Generation beside a host's own work: encoded in slices of a time budget into the host's compute passes.

use super::session::{Sampling, Session, Token, chunks};
use crate::Result;
use crate::gpu::Readback;
use crate::plan::SlicedRun;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, Waker};

/// A generation that the host drives, frame by frame: [`SlicedGeneration::encode`] into its pass, submit,
/// [`SlicedGeneration::submitted`], and [`SlicedGeneration::token`] whenever it likes. Nothing here blocks or polls the device.
///
/// While it lives, no other plan of the same context can run.
pub struct SlicedGeneration {
    session: Session,
    sampling: Sampling,
    new: Vec<Vec<u32>>,
    /// Chunks of the prompt that were begun.
    chunk: usize,
    run: Option<SlicedRun>,
    /// Steps with a choice at their end that may still be begun.
    left: usize,
    /// Steps whose tokens were asked for.
    asked: usize,
    made: usize,
    alive: Vec<bool>,
    reading: Option<Reading>,
    ready: VecDeque<Token>,
    /// Measured over estimated time, smoothed.
    pace: f64,
    estimated_ms: f64,
    /// The run that was encoded last ends with a choice.
    chooses: bool,
}

/// The words of each sequence's token, on their way.
type Reading = Pin<Box<dyn Future<Output = Result<Vec<Vec<u32>>>> + Send>>;

impl std::fmt::Debug for SlicedGeneration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SlicedGeneration({} steps read, {} left)", self.made, self.left)
    }
}

impl Session {
    /// Begins a generation that the host encodes in slices. The session comes back from [`SlicedGeneration::finish`].
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn generate_sliced(mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<SlicedGeneration> {
        let (new, left) = self.admit(prompts, sampling)?;
        let alive = vec![left > 0; new.len()];
        Ok(SlicedGeneration {
            session: self,
            sampling: sampling.clone(),
            new,
            chunk: 0,
            run: None,
            left,
            asked: 0,
            made: 0,
            alive,
            reading: None,
            ready: VecDeque::new(),
            pace: 1.0,
            estimated_ms: 0.0,
            chooses: false,
        })
    }
}

impl SlicedGeneration {
    /// Encodes about `budget_ms` milliseconds of work into `pass`; false where there is nothing to encode now: all is done, or
    /// the tokens of the last step have not been read yet. A slice ends at the latest with its step.
    ///
    /// # Errors
    /// What the device reports.
    pub fn encode(&mut self, pass: &mut wgpu::ComputePass<'_>, budget_ms: f64) -> Result<bool> {
        self.token_ready()?;
        if self.run.as_ref().is_none_or(SlicedRun::is_done) && !self.begin()? {
            return Ok(false);
        }
        let Some(run) = &mut self.run else { return Ok(false) };
        self.estimated_ms = run.encode(pass, budget_ms, self.pace).unwrap_or(0.0);
        Ok(true)
    }

    /// Begins the next step, if there is one.
    fn begin(&mut self) -> Result<bool> {
        // The workspace of the finished run is free again.
        self.run = None;
        let bound = if self.chunk < chunks(&self.new) {
            let bound = self.session.begin_chunk(&self.new, &self.sampling, self.chunk)?;
            self.chunk += 1;
            self.chooses = self.chunk == chunks(&self.new);
            bound
        } else if self.left > 0 && self.reading.is_none() && self.alive.contains(&true) {
            self.chooses = true;
            self.session.bound(1, true)?
        } else {
            return Ok(false);
        };
        if self.chooses {
            self.left -= 1;
        }
        self.run = Some(bound.sliced()?);
        Ok(true)
    }

    /// To be called after the submission that holds the last slice; `took_ms` is the time that it took, where the host knows,
    /// and corrects the size of the next slices.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn submitted(&mut self, took_ms: Option<f64>) -> Result<()> {
        if let (Some(ms), true) = (took_ms, self.estimated_ms > 0.0) {
            // Slow slices count at once, fast ones little by little: a hitch is worse than a slice too small.
            let ratio = (ms / self.estimated_ms).clamp(0.01, 1000.0);
            self.pace = if ratio > self.pace { 0.5 * (self.pace + ratio) } else { 0.95 * self.pace + 0.05 * ratio };
        }
        self.estimated_ms = 0.0;
        if self.chooses && self.run.as_ref().is_some_and(SlicedRun::is_done) {
            self.run = None;
            self.chooses = false;
            let readback: Readback = self.session.read_step(self.asked)?;
            self.asked += 1;
            self.reading = Some(Box::pin(readback.words()));
        }
        Ok(())
    }

    /// A token, if one has arrived. Readbacks arrive as the host polls its device or submits.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`].
    pub fn token(&mut self) -> Result<Option<Token>> {
        self.token_ready()?;
        Ok(self.ready.pop_front())
    }

    fn token_ready(&mut self) -> Result<()> {
        let Some(reading) = &mut self.reading else { return Ok(()) };
        if let Poll::Ready(words) = reading.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
            self.reading = None;
            let tokens = self.session.note(&words?, &self.new, self.made == 0, &self.sampling.stops, &mut self.alive);
            self.ready.extend(tokens);
            self.made += 1;
        }
        Ok(())
    }

    /// True once every token has been returned.
    pub fn is_done(&self) -> bool {
        let begun_all = self.chunk == chunks(&self.new) && (self.left == 0 || !self.alive.contains(&true));
        begun_all && self.run.is_none() && self.reading.is_none() && self.ready.is_empty()
    }

    /// Gives the session back; what was not generated yet is left out.
    pub fn finish(self) -> Session {
        self.session
    }
}
