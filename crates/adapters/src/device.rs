//! Devices by name, as the command line takes them.

use burn::tensor::Device;
#[cfg(feature = "wgpu-unfused")]
use burn::tensor::DeviceKind;
use burn::tensor::DeviceType;

/// A device name that is not one, whose backend is not compiled in, or that this machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown device `{found}`; this build and this machine have: {}", available.join(", "))]
pub struct DeviceError {
    /// The name.
    pub found: String,
    /// The names that [`parse_device`] takes.
    pub available: Vec<String>,
}

/// A device of this machine, from [`devices`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AvailableDevice {
    /// The name that [`parse_device`] takes.
    pub name: String,
    /// What the driver calls the hardware; `None` for a backend of the processor.
    pub hardware: Option<String>,
}

/// A backend that is compiled in.
struct Backend {
    name: &'static str,
    /// The device of the bare name.
    first: fn() -> Device,
    /// Which devices of a machine are its own.
    kind: DeviceType,
}

/// The backends of this build, in the order of preference.
fn backends() -> Vec<Backend> {
    vec![
        #[cfg(feature = "flex")]
        Backend {
            name: "flex",
            first: Device::flex,
            kind: DeviceType::Flex,
        },
        #[cfg(feature = "ndarray")]
        Backend {
            name: "ndarray",
            first: ndarray,
            kind: DeviceType::NdArray,
        },
        #[cfg(feature = "cpu")]
        Backend {
            name: "cpu",
            first: Device::cpu,
            kind: DeviceType::Cpu,
        },
        #[cfg(feature = "wgpu-unfused")]
        Backend {
            name: "wgpu",
            first: || Device::wgpu(DeviceKind::DefaultDevice),
            kind: DeviceType::Wgpu,
        },
        #[cfg(feature = "vulkan")]
        Backend {
            name: "vulkan",
            first: || Device::vulkan(DeviceKind::DefaultDevice),
            kind: DeviceType::Vulkan,
        },
        #[cfg(feature = "metal")]
        Backend {
            name: "metal",
            first: || Device::metal(DeviceKind::DefaultDevice),
            kind: DeviceType::Metal,
        },
        #[cfg(feature = "webgpu")]
        Backend {
            name: "webgpu",
            first: || Device::webgpu(DeviceKind::DefaultDevice),
            kind: DeviceType::WebGpu,
        },
        #[cfg(feature = "cuda")]
        Backend {
            name: "cuda",
            first: || Device::cuda(0usize),
            kind: DeviceType::Cuda,
        },
        #[cfg(feature = "rocm")]
        Backend {
            name: "rocm",
            first: || Device::rocm(0usize),
            kind: DeviceType::Rocm,
        },
    ]
}

impl Backend {
    /// Its devices on this machine, by number.
    #[cfg_attr(
        not(any(
            feature = "cpu",
            feature = "cuda",
            feature = "flex",
            feature = "metal",
            feature = "ndarray",
            feature = "rocm",
            feature = "vulkan",
            feature = "webgpu",
            feature = "wgpu-unfused"
        )),
        allow(unreachable_code, reason = "without a backend there is no `DeviceType`")
    )]
    fn devices(&self) -> Vec<Device> {
        Device::enumerate(self.kind.clone()).into_vec()
    }

    /// The names of its devices on this machine: with a number where there may be several.
    fn names(&self) -> Vec<String> {
        match (self.name, self.devices().len()) {
            ("flex" | "ndarray" | "cpu", _) => vec![self.name.to_owned()],
            (name, count) => (0..count).map(|index| format!("{name}:{index}")).collect(),
        }
    }
}

/// Names of the backends of this build. [`parse_device`] takes each, and with a number after a colon one of several devices.
pub fn available_backends() -> Vec<&'static str> {
    backends().iter().map(|backend| backend.name).collect()
}

/// The devices that this build and this machine have. The device of each GPU is opened to be named.
pub fn devices() -> Vec<AvailableDevice> {
    let of = |backend: Backend| {
        let hardware = backend.devices().into_iter().map(hardware);
        let named = backend.names().into_iter().zip(hardware);
        named
            .map(|(name, hardware)| AvailableDevice { name, hardware })
            .collect::<Vec<_>>()
    };
    backends().into_iter().flat_map(of).collect()
}

/// What the driver calls the hardware behind a device.
fn hardware(device: Device) -> Option<String> {
    #[cfg(any(feature = "cpu", feature = "cuda", feature = "rocm", feature = "wgpu-unfused"))]
    return device.identity().map(|identity| identity.name);
    #[cfg(not(any(feature = "cpu", feature = "cuda", feature = "rocm", feature = "wgpu-unfused")))]
    {
        let _ = device;
        None
    }
}

/// The device of a name where compiled in: `flex`, `ndarray`, `vulkan`, `cuda`, ..; `cuda:1` is the second of several.
///
/// # Errors
///
/// [`DeviceError`] listing what this build and this machine have.
pub fn parse_device(name: &str) -> Result<Device, DeviceError> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, index.parse::<usize>().ok().map(Some)),
        None => (name, Some(None)),
    };
    let backend = backends().into_iter().find(|backend| backend.name == kind);
    let device = backend.zip(index).and_then(|(backend, index)| {
        let device = backend.devices().into_iter().nth(index.unwrap_or(0));
        match index {
            Some(_) => device,
            None => device.map(|_| (backend.first)()),
        }
    });
    device.ok_or_else(|| DeviceError {
        found: name.to_owned(),
        available: backends().iter().flat_map(Backend::names).collect(),
    })
}

/// What to know about the numbers of the backend that a device name has; `None` where they are those of every other.
pub fn device_caution(name: &str) -> Option<&'static str> {
    match name.split(':').next()? {
        "cuda" => Some(
            "on CUDA, Burn 0.22 may multiply `f32` on tensor cores with 11 bits of each factor (TF32): results differ from those of \
             other devices in the third digit",
        ),
        "wgpu" => Some(
            "on wgpu, the gradients of LoReFT's projections have been seen to be wrong: train it on another device",
        ),
        _ => None,
    }
}

/// Burn deprecates this backend and keeps it until 0.23; so do we.
#[cfg(feature = "ndarray")]
#[allow(deprecated, reason = "Burn keeps the backend until 0.23")]
fn ndarray() -> Device {
    Device::ndarray()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_lists_what_there_is() {
        let error = parse_device("tpu:0").unwrap_err();
        assert!(error.available.contains(&"flex".to_owned()), "{error}");
        assert!(error.to_string().contains("`tpu:0`"), "{error}");
        for name in ["flex", "flex:0"] {
            assert_eq!(parse_device(name).unwrap(), Device::flex());
        }
        for name in ["flex:x", "flex:1", "flex:"] {
            assert_eq!(parse_device(name).unwrap_err().found, name);
        }
    }

    #[test]
    fn backends_with_other_numbers_have_a_caution() {
        for name in ["cuda", "cuda:1", "wgpu"] {
            assert!(device_caution(name).is_some(), "{name}");
        }
        assert!(device_caution("flex").is_none() && device_caution("ndarray").is_none());
    }

    #[test]
    fn each_listed_device_has_its_name() {
        for device in devices() {
            assert!(parse_device(&device.name).is_ok(), "{device:?}");
        }
    }
}
