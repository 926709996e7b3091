//! etalon on a host's device: a program that draws a triangle every frame generates text beside it, in slices.

use crate::models::fixture;
use etalon::format::Checkpoint;
use etalon::model::{Model, Sampling, Session};
use etalon::{Context, Facts};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SIZE: u32 = 64;

/// A program with a device of its own.
struct Host {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipeline: wgpu::RenderPipeline,
    target: wgpu::Texture,
    errors: Arc<AtomicUsize>,
}

const TRIANGLE: &str = "
@vertex fn vertex(@builtin(vertex_index) i: u32) -> @builtin(position) vec4<f32> {
    return vec4<f32>(f32(i32(i) - 1), f32(i32(i & 1u) * 2 - 1), 0.0, 1.0);
}
@fragment fn fragment() -> @location(0) vec4<f32> { return vec4<f32>(1.0, 128.0 / 255.0, 64.0 / 255.0, 1.0); }
";

impl Host {
    fn new() -> Self {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default())).expect("an adapter");
        let descriptor = wgpu::DeviceDescriptor {
            required_features: etalon::gpu::required_features(&adapter),
            required_limits: etalon::gpu::required_limits(&adapter),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
        let errors = Arc::new(AtomicUsize::new(0));
        let seen = errors.clone();
        device.on_uncaptured_error(Arc::new(move |_| {
            seen.fetch_add(1, Ordering::SeqCst);
        }));
        let module =
            device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(TRIANGLE.into()) });
        let format = wgpu::TextureFormat::Rgba8Unorm;
        let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: None,
            layout: None,
            vertex: wgpu::VertexState { module: &module, entry_point: None, compilation_options: Default::default(), buffers: &[] },
            fragment: Some(wgpu::FragmentState {
                module: &module,
                entry_point: None,
                compilation_options: Default::default(),
                targets: &[Some(format.into())],
            }),
            primitive: Default::default(),
            depth_stencil: None,
            multisample: Default::default(),
            multiview_mask: None,
            cache: None,
        });
        let target = device.create_texture(&wgpu::TextureDescriptor {
            label: None,
            size: wgpu::Extent3d { width: SIZE, height: SIZE, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        Self { device, queue, pipeline, target, errors }
    }

    fn draw(&self, encoder: &mut wgpu::CommandEncoder) {
        let view = self.target.create_view(&Default::default());
        let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                view: &view,
                depth_slice: None,
                resolve_target: None,
                ops: wgpu::Operations { load: wgpu::LoadOp::Clear(wgpu::Color::BLACK), store: wgpu::StoreOp::Store },
            })],
            ..Default::default()
        });
        pass.set_pipeline(&self.pipeline);
        pass.draw(0..3, 0..1);
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&Default::default())
    }

    fn wait(&self) {
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
    }

    fn pixels(&self) -> Vec<u8> {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: u64::from(4 * SIZE * SIZE),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = self.encoder();
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(4 * SIZE), rows_per_image: None };
        encoder.copy_texture_to_buffer(
            self.target.as_image_copy(),
            wgpu::TexelCopyBufferInfo { buffer: &buffer, layout },
            self.target.size(),
        );
        self.queue.submit([encoder.finish()]);
        buffer.map_async(wgpu::MapMode::Read, .., |r| r.expect("mapped"));
        self.wait();
        buffer.get_mapped_range(..).expect("mapped").to_vec()
    }
}

#[test]
fn a_program_that_draws_generates_beside_it() {
    let host = Host::new();
    let mut encoder = host.encoder();
    host.draw(&mut encoder);
    host.queue.submit([encoder.finish()]);
    let frame = host.pixels();
    assert!(frame.chunks(4).any(|p| p == [255, 128, 64, 255]) && frame.chunks(4).any(|p| p == [0, 0, 0, 255]));

    let mut facts = Facts::of(&host.device);
    facts.max_dispatch_ms = 1.0;
    let context = Context::from_host(host.device.clone(), host.queue.clone(), facts);
    // On a host's device nothing may block.
    assert!(context.block_on(async { Ok(()) }).is_err());
    let model = Model::load(&context, &Checkpoint::open(&fixture("tiny/llama-gqa")).unwrap(), &|_, _| {}).unwrap();
    let mut session = Session::new(&model, 1).unwrap();
    session.warm_up(7).unwrap();
    let sampling = Sampling { max_tokens: 12, ..Sampling::default() };
    let prompt = vec![5, 6, 7, 8, 9, 10, 11];
    let mut generation = session.generate_sliced(std::slice::from_ref(&prompt), &sampling).unwrap();
    let (mut tokens, mut frames) = (Vec::new(), 0);
    while !generation.is_done() {
        let mut encoder = host.encoder();
        host.draw(&mut encoder);
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            generation.encode(&mut pass, 0.05).unwrap();
        }
        host.queue.submit([encoder.finish()]);
        host.wait();
        generation.submitted(None).unwrap();
        while let Some(t) = generation.token().unwrap() {
            tokens.push(t.id);
        }
        frames += 1;
        assert!(frames < 10_000, "the generation does not end");
    }
    assert!(frames > 12, "{frames} frames: nothing was cut into slices");
    assert_eq!(host.pixels(), frame);
    assert_eq!(host.errors.load(Ordering::SeqCst), 0);

    // The same tokens as on a device of our own; the session goes on.
    let own = crate::kernels::context();
    let model = Model::load(&own, &Checkpoint::open(&fixture("tiny/llama-gqa")).unwrap(), &|_, _| {}).unwrap();
    let mut fresh = Session::new(&model, 1).unwrap();
    let want: Vec<u32> = fresh.generate(&[prompt], &sampling).unwrap().blocking().map(|t| t.unwrap().id).collect();
    assert_eq!(tokens, want);
    assert_eq!(generation.finish().tokens(0)[7..], want);
}

#[test]
fn dropping_a_generation_midway_is_safe() {
    let host = Host::new();
    let context = Context::from_host(host.device.clone(), host.queue.clone(), Facts::of(&host.device));
    let model = Model::load(&context, &Checkpoint::open(&fixture("tiny/llama-gqa")).unwrap(), &|_, _| {}).unwrap();
    for slices in 0..4 {
        let session = Session::new(&model, 1).unwrap();
        let mut generation = session.generate_sliced(&[vec![1, 2, 3]], &Sampling::default()).unwrap();
        for _ in 0..slices {
            let mut encoder = host.encoder();
            generation.encode(&mut encoder.begin_compute_pass(&Default::default()), 0.01).unwrap();
            host.queue.submit([encoder.finish()]);
            generation.submitted(Some(0.1)).unwrap();
        }
    }
    host.wait();
    assert_eq!(host.errors.load(Ordering::SeqCst), 0);
}
