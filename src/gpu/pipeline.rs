//! Pipelines, made once per (kernel, variant) and shared by every plan of a context.

use crate::kernel::{Access, Target, Variant};
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// A compute pipeline and the layout of its one bind group.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

#[derive(Debug, Default)]
pub(crate) struct PipelineCache {
    made: Mutex<HashMap<String, Arc<Pipeline>>>,
}

impl PipelineCache {
    /// The pipeline of `variant`, compiled on first use.
    pub(crate) fn get(&self, device: &wgpu::Device, cache: Option<&wgpu::PipelineCache>, variant: &Variant) -> Result<Arc<Pipeline>> {
        let name = variant.name();
        if let Some(p) = super::buffer::lock(&self.made).get(&name) {
            return Ok(p.clone());
        }
        // Two threads may compile the same variant at once; the second result is dropped. Holding the lock would serialise
        // all compilation, which takes 7 to 124 ms each on the software driver.
        let p = Arc::new(create(device, cache, variant)?);
        Ok(super::buffer::lock(&self.made).entry(name).or_insert(p).clone())
    }

    pub(crate) fn len(&self) -> usize {
        super::buffer::lock(&self.made).len()
    }
}

fn create(device: &wgpu::Device, cache: Option<&wgpu::PipelineCache>, variant: &Variant) -> Result<Pipeline> {
    let name = variant.name();
    let source = variant.wgsl(Target::Native)?;
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let module =
        device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(&name), source: wgpu::ShaderSource::Wgsl(source.into()) });
    let entries: Vec<_> = std::iter::once(wgpu::BufferBindingType::Uniform)
        .chain(variant.access.iter().map(|a| wgpu::BufferBindingType::Storage { read_only: *a == Access::Read }))
        .enumerate()
        .map(|(i, ty)| wgpu::BindGroupLayoutEntry {
            binding: i as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        })
        .collect();
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&name), entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(&name),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&name),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[],
            // Every kernel writes its tiles before it reads them.
            zero_initialize_workgroup_memory: false,
        },
        cache,
    });
    // On native backends the scope resolves at once; in a browser errors of pipeline creation surface at the first use.
    if let Some(e) = now(scope.pop()).flatten() {
        return Err(Error::Device { what: format!("compiling {name}"), message: e.to_string() });
    }
    Ok(Pipeline { pipeline, layout })
}

/// The output of a future that is ready at once, as the native backends' are; `None` where it is not.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(v) => Some(v),
        std::task::Poll::Pending => None,
    }
}
