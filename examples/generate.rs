//! Text from a model file: `cargo run --release --example generate -- MODEL.gguf "Once upon a time"`.

use etalon::format::{Checkpoint, TextStream};
use etalon::model::{Model, Sampling, Session};
use etalon::{Context, ContextOptions};
use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(prompt)) = (args.next(), args.next()) else { return Err("usage: generate MODEL PROMPT".into()) };

    let context = pollster::block_on(Context::new(&ContextOptions::default()))?;
    let checkpoint = Checkpoint::open(path.as_ref())?;
    let model = Model::load(&context, &checkpoint, &|_, _| {})?;
    let tokenizer = model.tokenizer()?;
    let sampling = Sampling { max_tokens: 64, stops: tokenizer.eos.clone(), ..Sampling::default() };
    let mut session = Session::new(&model, 1)?;
    let mut text = TextStream::new(true);
    print!("{prompt}");
    for token in session.generate(&[tokenizer.encode(&prompt, true)?], &sampling)?.blocking() {
        print!("{}", text.push(tokenizer, token?.id)?);
        std::io::stdout().flush()?;
    }
    println!("{}", text.finish(tokenizer)?);
    Ok(())
}
