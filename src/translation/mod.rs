//! Translation: pairs of sentences, training batches, beam search, BLEU.

mod beam;
mod bleu;
mod load;
mod pairs;
mod run;

pub use beam::{Search, translate};
pub use bleu::{Bleu, bleu, words};
pub use load::{config, load};
pub use pairs::{Pair, all_batches, drawn_batches, encode, read_pairs, shapes_of};
pub use run::{Corpus, Outcome, Request, Watch, test, train};
