//! Golden cases: numbers of the Python libraries, and what this library makes of the same files.
//!
//! A set is a folder of models, a model a checkpoint with inputs and cases (see `golden/README.md`). Nothing here
//! knows a model or a case by name: `case.json` and `config.json` say what to do.

mod active;
mod case;
mod combined;
mod compare;
mod decided;
mod glob;
mod gradients;
mod model;
mod records;
mod run;
mod verdict;
mod walk;

pub use case::{Case, Framework, Op};
pub use compare::Tolerance;
pub use glob::matches;
pub use run::{Options, Prepared};
pub use verdict::{Outcome, Stop, Summary, Verdict, chain};
pub use walk::{GoldenError, Selection, walk};
