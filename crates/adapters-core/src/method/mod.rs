//! Methods. Read in this order:
//!
//! 1. [`Method`] (here): the configuration of a method and the layers it builds; all that most methods implement.
//! 2. [`target`]: which sites of a model a method targets. [`build`]: what it may use to build a layer.
//! 3. [`layer`], [`named_params`], [`site_layer`], [`shared`]: what it builds.
//! 4. [`codec`]: how a method is stored in the two file formats.
//! 5. [`capability`], [`schedule`]: what only some methods need.
//! 6. [`any`], [`erase`]: methods of any type.

pub(crate) mod any;
pub(crate) mod build;
pub(crate) mod capability;
pub(crate) mod codec;
pub(crate) mod erase;
pub(crate) mod layer;
pub(crate) mod macros;
pub(crate) mod named_params;
pub(crate) mod schedule;
pub(crate) mod shared;
pub(crate) mod site_layer;
pub mod target;
mod unmatched;

use std::fmt::Debug;

use adapters_config::{AdapterHub, ConfigError, Peft, Preset};
use adapters_sites::SiteInfo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::method::build::Build;
use crate::method::capability::Capabilities;
use crate::method::codec::Codec;
use crate::method::site_layer::SiteLayer;
use crate::method::target::Target;

/// A method: its configuration, and the layers it builds. Everything else (config strings, the registry, type erasure)
/// follows.
///
/// The type is the configuration. Serialized, it has the fields that config strings and recipes have; each of its presets
/// serializes every field a user may write. Fields of a file that it does not know belong in a flattened map.
pub trait Method:
    Clone
    + Debug
    + Default
    + PartialEq
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
    + Codec<AdapterHub>
    + Codec<Peft>
{
    /// Name of the method in messages, e.g. `"lora"`.
    const NAME: &'static str;

    /// What it does, in a sentence: what lists of methods show next to the name.
    const DESCRIPTION: &'static str;

    /// The identifiers a config string may start with, each with its configuration; the name alone for most methods.
    fn presets() -> &'static [Preset<Self>] {
        const {
            &[Preset {
                identifier: Self::NAME,
                config: Self::default,
            }]
        }
    }

    /// Checks the fields against their ranges and against each other.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] naming the first field outside its range, [`ConfigError::Unsupported`] for an option
    /// that is not computed.
    fn check(&self) -> Result<(), ConfigError>;

    /// The sites it targets.
    fn target(&self) -> Target;

    /// Builds the layer for one site.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`] for a kind of site the method has no layer for.
    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error>;

    /// What only some methods need.
    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities::default()
    }

    /// The refusal to build at a site.
    fn refuse(site: &SiteInfo, reason: impl Into<String>) -> Error {
        Error::CannotBuild {
            method: Self::NAME,
            path: site.path.clone(),
            reason: reason.into(),
        }
    }

    /// Refuses a tensor whose axes the configuration and the model give together, where it is more than there is memory for; `what`
    /// names the fields.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`] beyond 2^28 elements.
    fn check_elements<const N: usize>(site: &SiteInfo, what: &str, axes: [usize; N]) -> Result<(), Error> {
        let count = axes.iter().try_fold(1, |count: usize, axis| count.checked_mul(*axis));
        match count.is_some_and(|count| count <= 1 << 28) {
            true => Ok(()),
            false => {
                let axes = axes.map(|axis| axis.to_string()).join(" x ");
                Err(Self::refuse(
                    site,
                    format!("`{what}` asks for a tensor of {axes} elements, expected at most 2^28"),
                ))
            }
        }
    }

    /// Input and output features of a linear site.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`] for a site of another kind.
    fn linear_dims(site: &SiteInfo) -> Result<(usize, usize), Error> {
        site.linear_dims()
            .ok_or_else(|| Self::refuse(site, "it adapts linear layers only"))
    }
}
