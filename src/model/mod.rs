//! Model families: Llama, OPT and BERT, one description of a transformer, and sessions that generate text.

mod bert;
mod linears;
mod llama;
mod opt;
mod probe;
mod session;
mod sliced;
mod transformer;
mod weights;

mod forward;

pub use forward::{Outputs, Sequence};
pub use linears::{Linear, Site, linears};
pub use probe::{Keep, Loss, Probe};
pub use session::{Generation, Sampling, Session, Token};
pub use sliced::SlicedGeneration;
pub use transformer::Dimensions;
pub use weights::Progress;

use crate::format::{Checkpoint, Config, Tokenizer};
use crate::gpu::Context;
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use transformer::Transformer;
use weights::{Loader, Place};

/// A model on a device. Sessions share it.
#[derive(Debug)]
pub struct Model {
    context: Context,
    config: Config,
    transformer: Transformer,
    head: bert::Head,
    tokenizer: Option<Tokenizer>,
    chat_template: Option<String>,
    name: String,
    plans: Mutex<HashMap<String, Arc<forward::Runner>>>,
    /// Where the weights of linear layers lie, in a model that was loaded for changes.
    places: BTreeMap<String, Place>,
}

impl Model {
    /// Uploads the weights of a checkpoint. `progress` is called after each tensor with the number done and the number in all.
    ///
    /// # Errors
    /// What the checkpoint lacks or gets wrong, by the tensor's name; [`Error::OutOfMemory`], [`Error::Limit`].
    pub fn load(context: &Context, checkpoint: &Checkpoint, progress: Progress<'_>) -> Result<Arc<Self>> {
        Self::load_with(Loader::new(context, checkpoint, progress))
    }

    /// The same with the weights of linear layers in f32, whatever they are in the file, so that [`Model::set_weight`] can change them.
    ///
    /// # Errors
    /// As [`Model::load`]; [`Error::Unsupported`] for a model of spectral factors.
    pub fn load_open(context: &Context, checkpoint: &Checkpoint, progress: Progress<'_>) -> Result<Arc<Self>> {
        Self::load_with(Loader { places: Some(BTreeMap::new()), ..Loader::new(context, checkpoint, progress) })
    }

    fn load_with(mut loader: Loader<'_>) -> Result<Arc<Self>> {
        let (context, checkpoint) = (loader.context, loader.checkpoint);
        let (transformer, head) = match &checkpoint.config {
            Config::Llama(c) => (llama::load(&mut loader, c)?, bert::Head::None),
            Config::Opt(c) => (opt::load(&mut loader, c)?, bert::Head::None),
            Config::Bert(c) => bert::load(&mut loader, c)?,
            Config::Translator { .. } => {
                let what = format!("{}: a translator as a model of one stack", checkpoint.name);
                return Err(Error::Unsupported { what, advice: "`etalon translate run` and `train::Translating` run it".into() });
            }
        };
        Ok(Arc::new(Self {
            context: context.clone(),
            config: checkpoint.config.clone(),
            transformer,
            head,
            // A model without a tokenizer still takes token ids.
            tokenizer: checkpoint.tokenizer().inspect_err(|e| log::info!("no tokenizer: {e}")).ok(),
            chat_template: checkpoint.chat_template().map(str::to_owned),
            name: checkpoint.name.clone(),
            plans: Mutex::default(),
            places: loader.places.unwrap_or_default(),
        }))
    }

    /// Overwrites the weight of a linear layer, row after row; runs that are submitted from now on see it.
    ///
    /// # Errors
    /// [`Error::Request`] unless the model came from [`Model::load_open`] and has such a layer; [`Error::Shape`] for a wrong size.
    pub fn set_weight(&self, name: &str, values: &[f32]) -> Result<()> {
        let none = || Error::Request(format!("{}: `{name}` is no weight of a linear layer that may be changed", self.name));
        self.places.get(name).ok_or_else(none)?.write(&self.context, name, values)
    }

    /// The device that it lies on.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Its hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its sizes.
    pub fn dimensions(&self) -> Dimensions {
        self.transformer.shape
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// [`Error::Request`] where the model came without one.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        let none = || Error::Request(format!("{}: no usable tokenizer: give token ids, or put its tokenizer.json beside it", self.name));
        self.tokenizer.as_ref().ok_or_else(none)
    }

    /// The text of a conversation in the model's own chat format, ending where the assistant begins; `None` without a template.
    ///
    /// # Errors
    /// [`Error::Format`] where the template cannot be rendered.
    pub fn chat(&self, messages: &[crate::format::Message]) -> Result<Option<String>> {
        let Some(template) = &self.chat_template else { return Ok(None) };
        let tokenizer = self.tokenizer()?;
        let text = |id: Option<u32>| id.and_then(|i| tokenizer.token(i)).unwrap_or_default();
        let (bos, eos) = (text(tokenizer.bos), text(tokenizer.eos.first().copied()));
        crate::format::render_chat(template, messages, &bos, &eos, true).map(Some)
    }

    /// True for a model that generates text (Llama, OPT).
    pub fn is_decoder(&self) -> bool {
        !self.transformer.bidirectional
    }
}

/// The activation of a configuration as the kernels name it.
fn activation(a: crate::format::Activation) -> crate::kernel::linear::Activation {
    use crate::format::Activation as C;
    use crate::kernel::linear::Activation as K;
    match a {
        C::Relu => K::Relu,
        C::Gelu => K::GeluErf,
        C::GeluTanh => K::GeluTanh,
    }
}
