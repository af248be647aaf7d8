//! `adapters convert`

use std::path::{Path, PathBuf};

use adapters::core::Format;
use adapters::models::{AdapterFolder, Head};
use adapters::store::{LoadOptions, Manifest, atomic, load_adapter, read_safetensors, write_weights};
use adapters::{AdapterSet, METHODS};
use burn::tensor::DType;
use clap::ValueEnum;

use crate::failure::Failure;
use crate::options::{AcceptArgs, DTypeArg, DeviceArgs};
use crate::{folders, loading};

/// `adapters convert`
#[derive(Debug, clap::Args)]
#[command(after_help = crate::options::examples(&[
    "adapters convert --adapter runs/reviews/adapter --to peft --out converted",
    "adapters convert --adapter runs/reviews/adapter --dtype float16 --out smaller",
    "adapters convert --adapter downloaded-adapter --model models/all-MiniLM-L6-v2 --to adapterhub --out converted",
]))]
pub(crate) struct ConvertArgs {
    /// Folder of the adapter, or of the run that trained it.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) adapter: PathBuf,
    /// Folder of the base model [default: the one the adapter was trained on].
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// What is accepted.
    #[command(flatten)]
    pub(crate) accept: AcceptArgs,
    /// Folder for the converted adapter; must be new or empty.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) out: PathBuf,
    /// Format to write [default: that of the adapter].
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    pub(crate) to: Option<FormatArg>,
    /// Element type of the written weights [default: 32-bit floats].
    #[arg(long, value_name = "TYPE", help_heading = "Output")]
    pub(crate) dtype: Option<DTypeArg>,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// A format of adapter folders.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FormatArg {
    /// The format of AdapterHub's library `adapters`.
    Adapterhub,
    /// The format of `peft`.
    Peft,
}

/// Writes an adapter and its head in another format or element type.
pub(crate) fn run(args: ConvertArgs) -> Result<(), Failure> {
    folders::check_new(&args.out)?;
    let adapter = folders::single_adapter(&args.adapter)?;
    let device = loading::device(&args.device)?;
    let manifest = loading::manifest(&adapter)?;
    let dir = loading::base_dir(args.model.as_deref(), &manifest, &adapter, args.accept)?;
    let pretrained = loading::pretrained(&dir, Some(&adapter), args.accept)?;
    let base = pretrained.model(&device)?;
    let mut set = AdapterSet::new();
    let options = LoadOptions {
        name: Manifest::name_in(&adapter)?,
        allow_bin: args.accept.allow_bin,
        ..LoadOptions::default()
    };
    let report = load_adapter(&adapter, &mut set, &base, &METHODS, &options, &device)?;
    let format = match args.to {
        Some(FormatArg::Adapterhub) => Format::AdapterHub,
        Some(FormatArg::Peft) => Format::Peft,
        None => report.format,
    };
    if format == report.format && args.dtype.is_none() {
        return Err(Failure::new(
            format!("{} is in {format} format already", adapter.display()),
            "name the other format with --to, or an element type with --dtype",
        ));
    }
    loading::check_holds_tokens(&pretrained, format, &adapter)?;
    let name = report.attached.adapter;
    let head = Head::find(&adapter, &manifest, &dir, args.accept.allow_bin, &base, &device)?;
    let base_model = loading::named_base(&manifest, &dir);
    let config = set.attached(&name)?.method().to_string();
    let is_elsewhere = atomic::write_folder(&args.out, |out| {
        let folder = AdapterFolder {
            name: &name,
            format,
            pretrained: &pretrained,
            base: &base,
            head: head.as_ref(),
            tokenizer: Some(&adapter),
        };
        let manifest = Manifest {
            base_model: base_model.clone(),
            ..manifest
        };
        let written = folder.write(out, &set, &base_model, manifest)?;
        if let Some(dtype) = args.dtype {
            let heads = [Head::FILE, "model_head.safetensors"].map(|file| out.join(file));
            for file in [written.files.weights]
                .into_iter()
                .chain(heads)
                .filter(|file| file.exists())
            {
                convert(&file, dtype.dtype().into())?;
            }
        }
        Ok::<_, Failure>(!written.holds_head)
    })?;
    if is_elsewhere && format != report.format {
        say!(
            "{format} has no such head: it is in {}, which only this library reads",
            Head::FILE
        );
    }
    say!("{name}: {config}");
    say!("wrote {} in {format} format", args.out.display());
    Ok(())
}

/// Writes the floats of a file again, in another element type.
fn convert(file: &Path, dtype: DType) -> Result<(), Failure> {
    let (tensors, _) = read_safetensors(file)?;
    let converted = tensors.into_iter().map(|(key, data)| match data.dtype().is_float() {
        true => (key, data.convert_dtype(dtype)),
        false => (key, data),
    });
    Ok(write_weights(file, &converted.collect())?)
}
