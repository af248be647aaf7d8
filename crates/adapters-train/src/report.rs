//! What a run tells its caller while it goes.

use std::path::PathBuf;

use adapters_core::Format;

use crate::evaluate::Evaluation;
use crate::run_files::Truncated;

/// Something a run has done. The library prints nothing; a program shows these as it likes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Everything is loaded and checked.
    Ready {
        /// Optimizer steps in all.
        steps: u64,
        /// Rows of a batch.
        batch_size: usize,
        /// Parameters that train: the adapter's and the head's.
        trainable_params: usize,
        /// All parameters, the base's included.
        total_params: usize,
        /// Training examples of each class, where an example has one.
        classes: Vec<(String, usize)>,
        /// Texts of the training, the validation and the test data that are longer than `model.max_length` and were cut off.
        truncated: Truncated,
        /// What was attached, in words.
        attached: String,
    },
    /// A run of several begins with one of them: the adapter of a shard of the data, or at last their fusion.
    Stage {
        /// Its name.
        name: String,
        /// Which it is, from 0.
        index: usize,
        /// How many there are.
        of: usize,
    },
    /// An unfinished run was found and is resumed.
    Resumed {
        /// The step it is resumed after.
        step: u64,
    },
    /// An optimizer step.
    Step {
        /// Steps done.
        step: u64,
        /// Mean loss of the step's batches.
        loss: f64,
        /// Learning rate of the adapter.
        learning_rate: f64,
    },
    /// An evaluation on the validation data.
    Evaluated {
        /// Steps done.
        step: u64,
        /// The figures.
        evaluation: Evaluation,
        /// Whether it is the best so far.
        best: bool,
    },
    /// The run ends before its last step: no better figure for too long.
    StoppedEarly {
        /// Steps done.
        step: u64,
    },
    /// The final evaluation on the test data.
    Tested {
        /// The figures.
        evaluation: Evaluation,
    },
}

/// What a finished run left.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// The run folder.
    pub dir: PathBuf,
    /// The folder of the adapter, with head and manifest.
    pub adapter: PathBuf,
    /// Its format: AdapterHub's, or peft's where that one cannot express the method.
    pub format: Format,
    /// The folder in peft's format, or why it cannot be written.
    pub peft: Result<PathBuf, String>,
    /// Which libraries do not find the head in their folder, and how they would; `None` where all do or there is no head.
    pub head_note: Option<String>,
    /// The summary, as written.
    pub summary: crate::run_files::Summary,
    /// False if the caller stopped the run; what it had is in its last checkpoint.
    pub finished: bool,
}
