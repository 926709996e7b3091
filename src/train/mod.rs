//! Training: decoders and classifiers by Sparse Spectral Training and by the methods that it is compared with, in one harness.

pub mod checkpoint;
pub mod data;
mod decoder;
mod export;
mod feed;
mod graph;
mod initial;
pub mod job;
mod layout;
pub mod memory;
mod method;
mod mlp;
mod network;
mod options;
pub mod presets;
pub mod prune;
pub mod random;
mod restart;
mod run;
mod schedule;
mod score;
mod spectrum;
mod thawed;

pub use export::Export;
pub use feed::Data;
pub use graph::{Geometry, GraphData, GraphNet, GraphRows, Task};
pub use initial::{Initial, Named};
pub use layout::{Buffers, Group, Id, Layout, Page, Slots, Stored};
pub use method::{Basis, Linear, Method, Scope, Sst, Stand};
pub use network::Spec;
pub use options::{Frozen, Options, Round};
pub use run::{Drift, StepReport, Trainer};
pub use schedule::{Events, Schedule, table};
