//! `devices`: every adapter and what it can do.

use crate::common::{Global, bytes, print, print_json};
use anyhow::{Result, bail};
use etalon::wgpu;
use serde_json::{Value, json};

pub(crate) fn run(g: &Global) -> Result<()> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    if adapters.is_empty() {
        return Err(etalon::Error::NoAdapter { wanted: String::new() }.into());
    }
    let wanted = |(i, a): &(usize, &wgpu::Adapter)| match &g.device {
        None => true,
        Some(d) => d.parse().map_or_else(|_| a.get_info().name.to_lowercase().contains(&d.to_lowercase()), |n: usize| n == *i),
    };
    let shown: Vec<_> = adapters.iter().enumerate().filter(wanted).collect();
    if shown.is_empty() {
        bail!("no device matches `{}`: see `etalon devices`", g.device.as_deref().unwrap_or_default());
    }
    if g.json {
        return print_json(&Value::Array(shown.into_iter().map(|(i, a)| describe(i, a)).collect()));
    }
    for (i, a) in shown {
        let (info, limits) = (a.get_info(), a.limits());
        let subgroup = match (info.subgroup_min_size, info.subgroup_max_size) {
            (a, b) if a == b => format!("{a}"),
            (a, b) => format!("{a} to {b}"),
        };
        print(&format!(
            "{i}  {}\n   {:?}, {:?}, driver {} {}\n   subgroups of {subgroup}; features: {}\n   bindings up to {}, buffers up to {}, workgroup memory {}, {} invocations a workgroup, {} storage buffers a stage\n",
            info.name,
            info.backend,
            info.device_type,
            info.driver,
            info.driver_info,
            features(a).join(", "),
            bytes(limits.max_storage_buffer_binding_size),
            bytes(limits.max_buffer_size),
            bytes(u64::from(limits.max_compute_workgroup_storage_size)),
            limits.max_compute_invocations_per_workgroup,
            limits.max_storage_buffers_per_shader_stage,
        ))?;
    }
    Ok(())
}

/// The optional features that etalon makes use of, as far as the adapter has them.
fn features(a: &wgpu::Adapter) -> Vec<String> {
    let names: Vec<String> = etalon::gpu::required_features(a).iter_names().map(|(n, _)| n.to_lowercase()).collect();
    if names.is_empty() { vec!["none that etalon uses".into()] } else { names }
}

fn describe(number: usize, a: &wgpu::Adapter) -> Value {
    let (info, limits) = (a.get_info(), a.limits());
    json!({
        "number": number,
        "name": info.name,
        "backend": format!("{:?}", info.backend),
        "type": format!("{:?}", info.device_type),
        "driver": info.driver,
        "driver_info": info.driver_info,
        "subgroup_min_size": info.subgroup_min_size,
        "subgroup_max_size": info.subgroup_max_size,
        "features": etalon::gpu::required_features(a).iter_names().map(|(n, _)| n.to_lowercase()).collect::<Vec<_>>(),
        "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
        "max_buffer_size": limits.max_buffer_size,
        "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
        "max_compute_invocations_per_workgroup": limits.max_compute_invocations_per_workgroup,
        "max_storage_buffers_per_shader_stage": limits.max_storage_buffers_per_shader_stage,
    })
}
