//! A program with a device of its own draws frames and generates text beside them, in slices of 4 ms:
//! `cargo run --release --example beside_frames -- MODEL [BUDGET_MS]`.
//!
//! Prints the text and by how much the slices lengthened the frames (median and 99th percentile); on a software adapter:
//!
//! ```text
//! The three primary colours are the primary colours of the human eye: red, blue, and yellow. These are the only three colors …
//! 503 frames; added by a slice of 4 ms: median 3.47 ms, 99th percentile 4.72 ms
//! ```

use etalon::format::{Checkpoint, TextStream};
use etalon::model::{Model, Sampling, Session};
use etalon::{Context, Facts, wgpu};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: beside_frames MODEL [BUDGET_MS]")?;
    let budget: f64 = args.next().map_or(Ok(4.0), |n| n.parse())?;

    // The host's device, with what etalon can make use of.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: etalon::gpu::required_features(&adapter),
        required_limits: etalon::gpu::required_limits(&adapter),
        ..Default::default()
    }))?;
    let target = device.create_texture(&wgpu::TextureDescriptor {
        label: None,
        size: wgpu::Extent3d { width: 256, height: 256, depth_or_array_layers: 1 },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: wgpu::TextureFormat::Rgba8Unorm,
        usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
        view_formats: &[],
    });
    let frame = |encoder: &mut wgpu::CommandEncoder| {
        let view = target.create_view(&Default::default());
        let ops = wgpu::Operations { load: wgpu::LoadOp::Clear(wgpu::Color::BLUE), store: wgpu::StoreOp::Store };
        let attachment = wgpu::RenderPassColorAttachment { view: &view, depth_slice: None, resolve_target: None, ops };
        drop(encoder.begin_render_pass(&wgpu::RenderPassDescriptor { color_attachments: &[Some(attachment)], ..Default::default() }));
    };
    let wait = || device.poll(wgpu::PollType::wait_indefinitely());

    // A renderer wants short dispatches: a slice cannot be shorter than one.
    let facts = Facts { max_dispatch_ms: 1.0, ..Facts::of(&device) };
    let context = Context::from_host(device.clone(), queue.clone(), facts);
    let model = Model::load(&context, &Checkpoint::open(path.as_ref())?, &|_, _| {})?;
    let tokenizer = model.tokenizer()?;
    let prompt = tokenizer.encode("The three primary colours are", true)?;
    let mut session = Session::new(&model, 1)?;
    // The host polls while etalon measures its dispatches, before the first frame.
    {
        let mut calibration = std::pin::pin!(session.calibrate(prompt.len()));
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            match calibration.as_mut().poll(&mut task) {
                std::task::Poll::Ready(result) => break result?,
                std::task::Poll::Pending => wait()?,
            };
        }
    }
    let sampling = Sampling { max_tokens: 24, stops: tokenizer.eos.clone(), ..Sampling::default() };
    let mut generation = session.generate_sliced(&[prompt], &sampling)?;

    let (mut text, mut out, mut added) = (TextStream::new(true), String::new(), Vec::new());
    while !generation.is_done() {
        let mut encoder = device.create_command_encoder(&Default::default());
        frame(&mut encoder);
        queue.submit([encoder.finish()]);
        wait()?;
        let start = Instant::now();
        let mut encoder = device.create_command_encoder(&Default::default());
        generation.encode(&mut encoder.begin_compute_pass(&Default::default()), budget)?;
        queue.submit([encoder.finish()]);
        wait()?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        generation.submitted(Some(ms))?;
        added.push(ms);
        while let Some(t) = generation.token()? {
            out += &text.push(tokenizer, t.id)?;
        }
    }
    out += &text.finish(tokenizer)?;
    added.sort_by(f64::total_cmp);
    println!("{}\nThe three primary colours are{out}", context.facts().summary());
    let at = |p: f64| added[((added.len() - 1) as f64 * p) as usize];
    println!("{} frames; added by a slice of {budget} ms: median {:.2} ms, 99th percentile {:.2} ms", added.len(), at(0.5), at(0.99));
    Ok(())
}
