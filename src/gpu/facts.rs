//! What the crate knows of an adapter: the only input, beside shapes, to the choice of kernel variants.

use std::collections::BTreeSet;

/// Facts of an adapter and the device made from it. Variant choice is a pure function of these and of shapes.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Name, driver, backend, subgroup sizes.
    pub info: wgpu::AdapterInfo,
    /// Features that the device was created with.
    pub features: wgpu::Features,
    /// Limits that the device was created with.
    pub limits: wgpu::Limits,
    /// Classes ([`crate::kernel::Variant::class`]) of kernel variants that must not be chosen, since they failed the self-test
    /// here.
    pub refused: BTreeSet<String>,
    /// Cap on the bytes of one storage binding; tests lower it to exercise splitting.
    pub max_binding: u64,
    /// Longest wanted single dispatch in milliseconds, for watchdogs and renderers.
    pub max_dispatch_ms: f64,
}

impl Facts {
    /// Facts of a device that exists already.
    pub fn of(device: &wgpu::Device) -> Self {
        let limits = device.limits();
        Self {
            info: device.adapter_info(),
            features: device.features(),
            // The spec lets a binding be 4-byte aligned only; the mask keeps windows on whole rows of vec4.
            max_binding: limits.max_storage_buffer_binding_size & !255,
            limits,
            refused: BTreeSet::new(),
            max_dispatch_ms: 100.0,
        }
    }

    /// Facts such as a browser gives: WebGPU's default limits, and subgroup operations only for a size.
    pub fn browser(subgroup: Option<u32>) -> Self {
        let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::Other, wgpu::Backend::BrowserWebGpu);
        let mut features = wgpu::Features::empty();
        if let Some(size) = subgroup {
            features |= wgpu::Features::SUBGROUP;
            (info.subgroup_min_size, info.subgroup_max_size) = (size, size);
        }
        let limits = wgpu::Limits::default();
        let max_binding = limits.max_storage_buffer_binding_size;
        Self { info, features, limits, refused: BTreeSet::new(), max_binding, max_dispatch_ms: 100.0 }
    }

    /// The subgroup size, where it is fixed and the device has subgroup operations.
    pub fn subgroup(&self) -> Option<u32> {
        let (min, max) = (self.info.subgroup_min_size, self.info.subgroup_max_size);
        (self.features.contains(wgpu::Features::SUBGROUP) && min == max && min > 0).then_some(min)
    }

    /// False where variants of `kernel` for subgroups of `lanes` failed the self-test.
    pub(crate) fn trusts(&self, kernel: &str, lanes: u32) -> bool {
        !self.refused.contains(&crate::kernel::class(kernel, lanes))
    }

    /// The same without subgroup operations, so that only plain variants are chosen.
    pub fn plain(&self) -> Self {
        Self { features: self.features - wgpu::Features::SUBGROUP, ..self.clone() }
    }

    /// True for a driver that runs shaders on the CPU.
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// True where the driver turns shaders into 8-lane CPU code: the register-tile variants without workgroup memory.
    pub fn wide_lanes(&self) -> bool {
        self.is_software() && self.subgroup() == Some(8)
    }

    /// True where turning an integer into a float is so slow that arithmetic on its bits is faster: on NVIDIA's GPUs (an H100 took
    /// 15.4 us for an int4 vector product of 8192 x 8192 so, and 17.0 by conversions).
    pub fn converts_slowly(&self) -> bool {
        self.info.vendor == 0x10de
    }

    /// Rough rates `(bytes/s, flop/s)` for sizing dispatches before anything was measured.
    pub fn rates(&self) -> (f64, f64) {
        match self.info.device_type {
            wgpu::DeviceType::Cpu => (1e9, 2e9),
            wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::VirtualGpu => (2e10, 2e11),
            _ => (1e11, 1e12),
        }
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let i = &self.info;
        format!("{} ({:?}, {:?}; {} {})", i.name, i.backend, i.device_type, i.driver, i.driver_info)
    }
}

/// Features that the crate makes use of where `adapter` has them; none is needed.
///
/// A host adds these to its own `DeviceDescriptor::required_features`.
pub fn required_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    let wanted = wgpu::Features::SUBGROUP
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES
        | wgpu::Features::PIPELINE_CACHE;
    adapter.features() & wanted
}

/// Limits that let large models run: WebGPU's defaults, with buffer and binding sizes, workgroup memory and invocations raised
/// to what `adapter` offers.
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let has = adapter.limits();
    wgpu::Limits {
        max_storage_buffer_binding_size: has.max_storage_buffer_binding_size,
        max_buffer_size: has.max_buffer_size,
        max_compute_workgroup_storage_size: has.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: has.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: has.max_compute_workgroup_size_x,
        ..wgpu::Limits::default().or_worse_values_from(&has)
    }
}
