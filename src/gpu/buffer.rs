//! Device buffers that are counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that a context holds, by purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Bytes held now.
    pub now: u64,
    /// The largest `now` so far.
    pub peak: u64,
    /// Bytes held now, by label (`weights`, `kv cache`, `workspace`, …).
    pub by_label: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Accounting(Mutex<MemoryReport>);

/// A lock whose poisoning does not matter: the data are plain counters and caches.
pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Accounting {
    pub(crate) fn report(&self) -> MemoryReport {
        lock(&self.0).clone()
    }

    fn add(&self, label: &str, bytes: u64) {
        let mut r = lock(&self.0);
        r.now += bytes;
        r.peak = r.peak.max(r.now);
        *r.by_label.entry(label.to_owned()).or_default() += bytes;
    }

    fn sub(&self, label: &str, bytes: u64) {
        let mut r = lock(&self.0);
        r.now -= bytes;
        if let Some(b) = r.by_label.get_mut(label) {
            *b -= bytes;
            if *b == 0 {
                r.by_label.remove(label);
            }
        }
    }
}

/// A device buffer of whole words, counted under its label until it is dropped.
#[derive(Debug)]
pub struct Buffer {
    raw: wgpu::Buffer,
    label: String,
    accounting: Option<Arc<Accounting>>,
}

impl Buffer {
    pub(crate) fn counted(raw: wgpu::Buffer, label: &str, accounting: &Arc<Accounting>) -> Self {
        accounting.add(label, raw.size());
        Self { raw, label: label.to_owned(), accounting: Some(accounting.clone()) }
    }

    /// Wraps a buffer of the host, which stays the host's: it is not counted. It needs the `STORAGE` usage, and
    /// `COPY_SRC` if it is to be read back or verified.
    pub fn from_host(raw: wgpu::Buffer) -> Self {
        Self { raw, label: "host".into(), accounting: None }
    }

    /// The buffer itself.
    pub fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.raw.size()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(a) = &self.accounting {
            a.sub(&self.label, self.raw.size());
        }
    }
}
