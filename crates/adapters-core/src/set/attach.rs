//! Attaching: a method's layers at the sites it targets.

use std::collections::BTreeSet;
use std::fmt;

use adapters_nn::nearest;
use burn::tensor::Device;

use crate::error::Error;
use crate::host::Host;
use crate::method::any::AnyMethod;
use crate::method::target::{Selection, pattern_value};
use crate::set::AdapterSet;
use crate::set::attached::{Attached, StoredSize};

/// What attaching did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachReport {
    /// The adapter's name.
    pub adapter: String,
    /// Paths of the sites that have a layer now.
    pub adapted: Vec<String>,
    /// Paths that matched and were excluded or left out.
    pub skipped: Vec<String>,
    /// Patterns that matched nothing. Empty unless the adapter came from a file.
    pub unmatched: Vec<String>,
    /// Parameters of the new adapter.
    pub num_params: usize,
}

impl fmt::Display for AttachReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} parameters at {} sites",
            self.adapter,
            self.num_params,
            self.adapted.len()
        )?;
        for (what, paths) in [("skipped", &self.skipped), ("unmatched", &self.unmatched)] {
            if !paths.is_empty() {
                write!(f, "; {what}: {}", paths.join(", "))?;
            }
        }
        Ok(())
    }
}

impl AdapterSet {
    /// Builds `method` for `host` on `device` and adds it as `name`, trainable and not active.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`]; [`Error::NoTarget`] if one of its targets hits nothing; [`Error::NoModule`] for a value of a module
    /// that is not adapted; [`Error::CannotBuild`] too where it would not act.
    pub fn attach(
        &mut self,
        name: &str,
        method: AnyMethod,
        host: &dyn Host,
        seed: u64,
        device: &Device,
    ) -> Result<AttachReport, Error> {
        if let Some((method, selection)) = self.routed(&method, host)? {
            let (router, report) = build(name, method, host, selection, seed, device)?;
            self.insert_any(router)?;
            return Ok(report);
        }
        let target = method.target();
        let selection = target.select(host)?.require(&target, host)?;
        let patterns = method.capabilities().patterns;
        for (field, pattern) in patterns.map(|method| method.patterns()).unwrap_or_default() {
            require_module(field, pattern, &selection, host)?;
        }
        let (adapter, report) = build(name, method, host, selection, seed, device)?;
        require_acting(&adapter, host)?;
        self.insert(adapter)?;
        Ok(report)
    }
}

/// Refuses a pattern that matches none of the selected modules.
fn require_module(field: &'static str, pattern: &str, selection: &Selection, host: &dyn Host) -> Result<(), Error> {
    let mut names = BTreeSet::new();
    for info in &selection.sites {
        let parameter = info
            .parameter
            .as_ref()
            .map(|parameter| format!("{}.{}", info.path, parameter.name));
        let path = parameter.as_deref().unwrap_or(&info.path);
        if pattern_value([(pattern, ())], path)?.is_some() {
            return Ok(());
        }
        names.insert(path.rsplit('.').next().unwrap_or(path).to_owned());
    }
    Err(Error::NoModule {
        field,
        pattern: pattern.to_owned(),
        architecture: host.architecture().to_owned(),
        nearest: nearest(pattern, names.iter().map(String::as_str)),
        adapted: names.into_iter().collect::<Vec<_>>().join(", "),
    })
}

/// Refuses a layer at a table that no layer of the published model reads.
fn require_acting(adapter: &Attached, host: &dyn Host) -> Result<(), Error> {
    let acting: BTreeSet<_> = adapter.acting_layers().map(|l| l.info.site).collect();
    let Some(idle) = adapter.layers().find(|l| !acting.contains(&l.info.site)) else {
        return Ok(());
    };
    let table = Some(idle.info.site);
    let uses = host.sites().into_iter().filter(|info| info.weight_of == table);
    let uses: Vec<String> = uses.map(|info| format!("`{}`", info.path)).collect();
    Err(Error::CannotBuild {
        method: adapter.method().name(),
        path: idle.info.path.clone(),
        reason: format!(
            "it would not act: the model reads this table as {}, expected one of these names",
            uses.join(", ")
        ),
    })
}

/// Builds an adapter at the selected sites, in no set yet.
///
/// # Errors
///
/// [`Error::CannotBuild`] for a site the method has no layer for.
pub fn build(
    name: &str,
    method: AnyMethod,
    host: &dyn Host,
    selection: Selection,
    seed: u64,
    device: &Device,
) -> Result<(Attached, AttachReport), Error> {
    build_within(name, method, host, selection, seed, device, None)
}

/// Builds an adapter for the values of a file, as [`build`] does.
///
/// # Errors
///
/// As [`build`]; [`Error::CannotBuild`] too where the layers would have far more numbers than the file, before they take up memory.
pub fn build_for_file(
    name: &str,
    method: AnyMethod,
    host: &dyn Host,
    selection: Selection,
    file: StoredSize,
    device: &Device,
) -> Result<(Attached, AttachReport), Error> {
    build_within(name, method, host, selection, 0, device, Some(file))
}

fn build_within(
    name: &str,
    method: AnyMethod,
    host: &dyn Host,
    selection: Selection,
    seed: u64,
    device: &Device,
    file: Option<StoredSize>,
) -> Result<(Attached, AttachReport), Error> {
    let mut report = AttachReport {
        adapter: name.to_owned(),
        adapted: selection.sites.iter().map(|s| s.path.clone()).collect(),
        skipped: selection.skipped,
        unmatched: selection.unmatched,
        num_params: 0,
    };
    let adapter = Attached::build_within(name, method, selection.sites, host, seed, device, file)?;
    report.num_params = adapter.num_params();
    Ok((adapter, report))
}
