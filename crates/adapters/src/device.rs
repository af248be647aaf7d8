//! Devices by name, as the command line takes them.

use burn::tensor::Device;
#[cfg(feature = "wgpu")]
use burn::tensor::DeviceKind;

/// A device name that is not one, or whose backend is not compiled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown device `{found}`; this build has: {}", available_devices().join(", "))]
pub struct DeviceError {
    /// The name.
    pub found: String,
}

/// Names [`parse_device`] takes in this build.
pub fn available_devices() -> Vec<&'static str> {
    let mut names = Vec::new();
    if cfg!(feature = "flex") {
        names.push("flex");
    }
    if cfg!(feature = "ndarray") {
        names.push("ndarray");
    }
    if cfg!(feature = "cpu") {
        names.push("cpu");
    }
    if cfg!(feature = "wgpu") {
        names.push("wgpu");
    }
    if cfg!(feature = "vulkan") {
        names.push("vulkan");
    }
    if cfg!(feature = "metal") {
        names.push("metal");
    }
    if cfg!(feature = "webgpu") {
        names.push("webgpu");
    }
    if cfg!(feature = "cuda") {
        names.push("cuda:N");
    }
    if cfg!(feature = "rocm") {
        names.push("rocm:N");
    }
    names
}

/// The device of a name: `flex`, `ndarray`, `vulkan`, `cuda:0`, .. where compiled in.
///
/// # Errors
///
/// [`DeviceError`] listing what this build has.
pub fn parse_device(name: &str) -> Result<Device, DeviceError> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, index.parse::<usize>().ok()),
        None => (name, Some(0)),
    };
    let device = match (kind, index) {
        #[cfg(feature = "flex")]
        ("flex", Some(0)) => Some(Device::flex()),
        #[cfg(feature = "ndarray")]
        ("ndarray", Some(0)) => Some(ndarray()),
        #[cfg(feature = "cpu")]
        ("cpu", Some(0)) => Some(Device::cpu()),
        #[cfg(feature = "wgpu")]
        ("wgpu", Some(0)) => Some(Device::wgpu(DeviceKind::DefaultDevice)),
        #[cfg(feature = "vulkan")]
        ("vulkan", Some(0)) => Some(Device::vulkan(DeviceKind::DefaultDevice)),
        #[cfg(feature = "metal")]
        ("metal", Some(0)) => Some(Device::metal(DeviceKind::DefaultDevice)),
        #[cfg(feature = "webgpu")]
        ("webgpu", Some(0)) => Some(Device::webgpu(DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        ("cuda", Some(index)) => Some(Device::cuda(index)),
        #[cfg(feature = "rocm")]
        ("rocm", Some(index)) => Some(Device::rocm(index)),
        _ => None,
    };
    device.ok_or_else(|| DeviceError { found: name.to_owned() })
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
        let error = parse_device("tpu:0").unwrap_err().to_string();
        assert!(error.contains("`tpu:0`") && error.contains("flex"), "{error}");
        assert!(parse_device("flex").is_ok());
        assert!(parse_device("flex:x").is_err());
    }
}
