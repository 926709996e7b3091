//! Where the parameters of a model lie: planned as a whole before anything is allocated, then shared by every plan.
//!
//! Parameters, gradients and moments lie in a few large buffers, so that one dispatch updates the whole model. A page is a set of
//! buffers that belong together, none larger than a binding (a single tensor that is larger gets a page of its own).

use crate::Result;
use crate::autograd::{Parameter, Source};
use crate::gpu::{Buffer, Context};
use crate::kernel::adam::{After, Segment, Update};
use crate::kernel::thaw::Rows;
use crate::plan::{Builder, SlotId};
use crate::tensor::{PackedRows, Packing, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// Words that every tensor's place is a multiple of: a binding may begin there.
const ALIGN: usize = 64;

/// Which learning rate and step counter a parameter follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Embeddings, norms, biases, the head: trained alike by every method.
    Rest,
    /// Weights of linear layers, or the factors that stand in for them.
    Adapted,
    /// Singular values.
    Sigma,
    /// Active singular vectors.
    Vectors,
}

/// A stored tensor of a [`Layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(usize);

/// What a layout knows of a tensor.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its name; with `.u`, `.sigma`, `.v`, `.lora_a`, … after that of the weight that it stands for.
    pub name: String,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    page: usize,
    offset: usize,
    /// Never trained by gradients: in a buffer of its own, which other dispatches may write.
    frozen: bool,
    /// Its rows are packed.
    packed: Option<Packed>,
    gradient: Option<Trained>,
}

/// How a frozen tensor is packed.
#[derive(Debug, Clone, Copy)]
struct Packed {
    packing: Packing,
    /// The trained rows that stand for some of its own, whose numbers begin at this word of the indices.
    active: Option<(Id, usize)>,
}

impl Stored {
    /// Words that its values take.
    pub fn words(&self) -> usize {
        self.rows * self.packed.map_or(self.cols, |p| p.packing.row_words(self.cols))
    }

    /// How its rows are packed; `None`: f32.
    pub fn packing(&self) -> Option<Packing> {
        self.packed.map(|p| p.packing)
    }

    /// The tensor of f32 rows that stand for some of its own, being trained.
    pub fn active(&self) -> Option<Id> {
        self.packed.and_then(|p| p.active).map(|(id, _)| id)
    }
}

/// The gradient of a tensor, and what is done with it.
#[derive(Debug, Clone)]
struct Trained {
    offset: usize,
    rows: usize,
    cols: usize,
    group: Group,
    decay: f32,
    update: Update,
}

/// Words of a page's buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Page {
    /// Trained tensors, frozen singular vectors among them.
    pub values: usize,
    /// Gradients, and each of the two moments.
    pub gradients: usize,
}

/// The places of all tensors of a model.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    limit: usize,
    packing: Option<Packing>,
    pages: Vec<Page>,
    frozen: Vec<usize>,
    indices: usize,
    tensors: Vec<Stored>,
}

impl Id {
    /// Its place in the layout's order: tells tensors apart where a number is wanted.
    pub(super) fn number(self) -> u32 {
        self.0 as u32
    }
}

impl Layout {
    /// An empty layout for bindings of so many bytes, whose frozen tensors are packed where `packing` says how.
    pub fn new(max_binding: u64, packing: Option<Packing>) -> Self {
        Self { limit: (max_binding / 4) as usize, packing, ..Self::default() }
    }

    fn store(&mut self, name: &str, (rows, cols): (usize, usize), trained: Option<Trained>) -> Id {
        self.place(Stored { name: name.into(), rows, cols, page: 0, offset: 0, frozen: false, packed: None, gradient: trained })
    }

    fn place(&mut self, mut t: Stored) -> Id {
        let words = t.words().next_multiple_of(ALIGN).max(ALIGN);
        let gradient_words = t.gradient.as_ref().map_or(0, |g| (g.rows * g.cols).next_multiple_of(ALIGN).max(ALIGN));
        if t.frozen {
            if self.frozen.last().is_none_or(|used| used + words > self.limit) {
                self.frozen.push(0);
            }
            t.page = self.frozen.len() - 1;
            t.offset = self.frozen[t.page];
            self.frozen[t.page] += words;
        } else {
            let full = |p: &Page| p.values + words > self.limit || p.gradients + gradient_words > self.limit;
            if self.pages.last().is_none_or(full) {
                self.pages.push(Page::default());
            }
            t.page = self.pages.len() - 1;
            let p = &mut self.pages[t.page];
            t.offset = p.values;
            p.values += words;
            if let Some(g) = &mut t.gradient {
                g.offset = p.gradients;
                p.gradients += gradient_words;
            }
        }
        self.tensors.push(t);
        Id(self.tensors.len() - 1)
    }

    fn gradient(&mut self, name: &str, shape: (usize, usize), of: (usize, usize), group: Group, decay: f32, update: Update) -> Id {
        self.store(name, shape, Some(Trained { offset: 0, rows: of.0, cols: of.1, group, decay, update }))
    }

    /// A tensor that is trained whole.
    pub fn trained(&mut self, name: &str, shape: (usize, usize), group: Group, decay: f32) -> Id {
        self.gradient(name, shape, shape, group, decay, Update::Dense)
    }

    /// Points of the Lorentz model, a row each.
    pub fn points(&mut self, name: &str, shape: (usize, usize)) -> Id {
        self.gradient(name, shape, shape, Group::Rest, 0.0, Update::Lorentz { cols: shape.1 })
    }

    /// Singular values: trained whole, never negative.
    pub fn sigma(&mut self, name: &str, k: usize, decay: f32) -> Id {
        self.gradient(name, (1, k), (1, k), Group::Sigma, decay, Update::Clamped)
    }

    /// Singular values of which only the r are trained whose numbers stand at word `indices`.
    pub fn sampled_sigma(&mut self, name: &str, k: usize, r: usize, indices: usize) -> Id {
        let update = Update::Rows { indices, count: r, cols: 1, after: After::Clamp };
        self.gradient(name, (1, k), (1, r), Group::Sigma, 0.0, update)
    }

    /// Singular vectors, a row each, of which the r whose numbers stand at word `indices` are trained at a time. Where the layout packs,
    /// all k are packed, and the r active ones lie in f32 in a tensor of their own, `{name}_active`, from which they go back to their
    /// rows before others are drawn.
    pub fn vectors(&mut self, name: &str, (k, cols): (usize, usize), r: usize, indices: usize, normalise: bool) -> Id {
        if self.packing.is_some() {
            let update = if normalise { Update::Unit { cols } } else { Update::Dense };
            let active = self.gradient(&format!("{name}_active"), (r, cols), (r, cols), Group::Vectors, 0.0, update);
            return self.rows(name, (k, cols), Some((active, indices)));
        }
        let after = if normalise { After::Normalise } else { After::Nothing };
        let update = Update::Rows { indices, count: r, cols, after };
        self.gradient(name, (k, cols), (r, cols), Group::Vectors, 0.0, update)
    }

    /// A step in a projected space: the optimiser writes what another dispatch then adds to the weight.
    pub fn step(&mut self, name: &str, shape: (usize, usize)) -> Id {
        self.gradient(name, shape, shape, Group::Adapted, 0.0, Update::Step)
    }

    /// A tensor without a gradient, in a buffer apart from the trained ones: dispatches that read those may write it. Packed where the
    /// layout packs.
    pub fn frozen(&mut self, name: &str, shape: (usize, usize)) -> Id {
        self.rows(name, shape, None)
    }

    fn rows(&mut self, name: &str, (rows, cols): (usize, usize), active: Option<(Id, usize)>) -> Id {
        let packed = self.packing.map(|packing| Packed { packing, active });
        self.place(Stored { name: name.into(), rows, cols, page: 0, offset: 0, frozen: true, packed, gradient: None })
    }

    /// A tensor without a gradient beside the trained ones.
    pub fn beside(&mut self, name: &str, shape: (usize, usize)) -> Id {
        self.store(name, shape, None)
    }

    /// Room for r indices; returns the first word.
    pub fn indices(&mut self, r: usize) -> usize {
        let at = self.indices;
        self.indices += r.next_multiple_of(ALIGN);
        at
    }

    /// All tensors, in the order in which they were added.
    pub fn tensors(&self) -> impl Iterator<Item = (Id, &Stored)> {
        self.tensors.iter().enumerate().map(|(i, t)| (Id(i), t))
    }

    /// What is known of a tensor.
    pub fn get(&self, id: Id) -> &Stored {
        &self.tensors[id.0]
    }

    /// The pages of trained tensors.
    pub fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// Words of indices.
    pub fn index_words(&self) -> usize {
        self.indices.max(1)
    }

    /// Elements that have gradients, and elements of the moments.
    pub fn trained_elements(&self) -> (usize, usize) {
        let all = self.tensors.iter().filter_map(|t| t.gradient.as_ref()).map(|g| g.rows * g.cols).sum();
        (all, 2 * all)
    }

    /// Every buffer: label and bytes.
    pub fn buffers(&self) -> Vec<(&'static str, u64)> {
        let words = |label: &'static str, n: usize| (label, 4 * n as u64);
        let page = |p: &Page| {
            let g = p.gradients.max(1);
            [words("weights", p.values), words("gradients", g), words("optimiser", g), words("optimiser", g)]
        };
        let frozen = self.frozen.iter().map(|n| words("weights", *n));
        self.pages.iter().flat_map(page).chain(frozen).chain([words("weights", self.index_words())]).collect()
    }

    /// What the optimiser is to do, page by page.
    pub fn segments(&self, page: usize) -> Vec<Segment> {
        let of_page = self.tensors.iter().filter(|t| !t.frozen && t.page == page);
        of_page
            .filter_map(|t| {
                let g = t.gradient.as_ref()?;
                Some(Segment {
                    label: t.name.clone(),
                    value: t.offset,
                    gradient: g.offset,
                    len: t.rows * t.cols,
                    group: g.group as usize,
                    weight_decay: g.decay,
                    update: g.update,
                })
            })
            .collect()
    }
}

/// Buffers of a layout.
#[derive(Debug, Clone)]
pub struct Buffers {
    /// For each page: values, gradients, first and second moments.
    pub pages: Vec<[Arc<Buffer>; 4]>,
    /// Frozen tensors.
    pub frozen: Vec<Arc<Buffer>>,
    /// Numbers of the active singular vectors.
    pub indices: Arc<Buffer>,
}

impl Buffers {
    /// Allocates zeros.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], [`crate::Error::Limit`].
    pub fn new(context: &Context, layout: &Layout) -> Result<Self> {
        let mut all = layout.buffers().into_iter().map(|(label, bytes)| context.storage(label, bytes));
        let mut next = || all.next().unwrap_or_else(|| context.storage("weights", 4));
        let mut pages = Vec::new();
        for _ in &layout.pages {
            pages.push([next()?, next()?, next()?, next()?]);
        }
        let frozen = layout.frozen.iter().map(|_| next()).collect::<Result<_>>()?;
        Ok(Self { pages, frozen, indices: next()? })
    }

    /// The buffer that a tensor's values lie in, and their first word.
    pub fn place(&self, layout: &Layout, id: Id) -> (&Arc<Buffer>, usize) {
        let t = layout.get(id);
        let buffer = if t.frozen { &self.frozen[t.page] } else { &self.pages[t.page][0] };
        (buffer, t.offset)
    }

    /// The buffers and first word of a trained tensor's gradient and moments, and their words.
    pub fn gradient_place(&self, layout: &Layout, id: Id) -> Option<([&Arc<Buffer>; 3], usize, usize)> {
        let t = layout.get(id);
        let g = t.gradient.as_ref()?;
        let [_, gradients, first, second] = &self.pages[t.page];
        Some(([gradients, first, second], g.offset, g.rows * g.cols))
    }
}

/// A layout's slots in one plan.
#[derive(Debug, Clone)]
pub struct Slots {
    /// For each page: values, gradients, moments; only what the plan uses has a slot.
    pub pages: Vec<[SlotId; 4]>,
    frozen: Vec<SlotId>,
    /// Numbers of the active singular vectors.
    pub indices: SlotId,
    layout: Arc<Layout>,
    /// Where a plan wants whole gradients, by the step in the projected space that they belong to.
    wholes: HashMap<Id, Tensor>,
}

impl Slots {
    /// Slots for every buffer of the layout.
    pub fn new(b: &mut Builder, layout: &Arc<Layout>) -> Self {
        let page = |b: &mut Builder, p: &Page| {
            let g = p.gradients.max(1);
            [b.external("weights", p.values), b.external("gradients", g), b.external("first moments", g), b.external("second moments", g)]
        };
        Self {
            pages: layout.pages.iter().map(|p| page(b, p)).collect(),
            frozen: layout.frozen.iter().map(|n| b.external("frozen weights", *n)).collect(),
            indices: b.external("active indices", layout.index_words()),
            layout: layout.clone(),
            wholes: HashMap::new(),
        }
    }

    /// Asks for the whole gradient of the weight that a projected step belongs to.
    pub(super) fn want_whole(&mut self, step: Id, to: Tensor) {
        self.wholes.insert(step, to);
    }

    /// Where it goes, if it was asked for.
    pub(super) fn whole(&self, step: Id) -> Option<Tensor> {
        self.wholes.get(&step).copied()
    }

    /// The buffers that go with the slots.
    pub fn bindings(&self, buffers: &Buffers) -> Vec<(SlotId, Arc<Buffer>)> {
        let pages = self.pages.iter().zip(&buffers.pages).flat_map(|(s, b)| s.iter().copied().zip(b.iter().cloned()));
        let frozen = self.frozen.iter().copied().zip(buffers.frozen.iter().cloned());
        pages.chain(frozen).chain([(self.indices, buffers.indices.clone())]).collect()
    }

    /// The layout.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// A tensor's values, which are not packed.
    pub fn value(&self, id: Id) -> Tensor {
        let t = self.layout.get(id);
        debug_assert!(t.packed.is_none(), "{} is packed", t.name);
        let slot = if t.frozen { self.frozen[t.page] } else { self.pages[t.page][0] };
        Tensor { slot, offset: t.offset, rows: t.rows, cols: t.cols, stride: t.cols }
    }

    /// A tensor's packed rows.
    pub(super) fn packed(&self, id: Id) -> Option<PackedRows> {
        let t = self.layout.get(id);
        let packing = t.packing()?;
        Some(PackedRows { slot: self.frozen[t.page], offset: t.offset, rows: t.rows, cols: t.cols, packing })
    }

    /// The rows of a packed tensor that are trained in another one, and where their numbers begin.
    pub(super) fn active(&self, id: Id) -> Option<(Tensor, (SlotId, usize))> {
        let (active, at) = self.layout.get(id).packed?.active?;
        Some((self.value(active), (self.indices, at)))
    }

    /// A tensor's values as they count now: packed rows, but for those that are trained.
    pub fn source(&self, id: Id) -> Source {
        let which = self.active(id).map_or(Rows::All, |(rows, indices)| Rows::Overlaid(rows, indices));
        self.packed(id).map_or_else(|| Source::Plain(self.value(id)), |rows| Source::Packed(rows, which))
    }

    /// The gradient of a tensor, or of those of its rows that are trained elsewhere.
    pub fn gradient(&self, id: Id) -> Option<Tensor> {
        self.parameter(self.layout.get(id).active().unwrap_or(id)).gradient
    }

    /// A tensor and its gradient.
    pub fn parameter(&self, id: Id) -> Parameter {
        let t = self.layout.get(id);
        let gradient = t.gradient.as_ref().map(|g| Tensor {
            slot: self.pages[t.page][1],
            offset: g.offset,
            rows: g.rows,
            cols: g.cols,
            stride: g.cols,
        });
        Parameter { value: self.value(id), gradient }
    }
}
