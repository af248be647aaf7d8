//! The workspace's own chores: `cargo xtask ci`, `cargo xtask tidy`, `cargo xtask fuzz`, `cargo xtask gpu-check`, `cargo xtask book-figures`,
//! `cargo xtask embed`.
//!
//! | Command | Purpose |
//! |---|---|
//! | `ci` | everything continuous integration runs, cheapest check first |
//! | `tidy` | the shape of the tree: module docs, file sizes, crate dependencies, names |
//! | `fuzz` | inputs that are nearly right for every reader |
//! | `gpu-check` | golden cases, training and times on a GPU |
//! | `book-figures` | the table of methods in the book, measured |
//! | `embed` | the compact copy of a published checkpoint that lives in this repository |

// A command-line tool speaks on standard output.
#![allow(clippy::print_stdout)]

mod book_figures;
mod ci;
mod embed;
mod fuzz;
mod gpu_check;
mod tidy;

use std::path::PathBuf;

use clap::Parser;
use miette::Result;

/// Chores of the adapters workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Run what continuous integration runs, cheapest check first.
    Ci(ci::Args),
    /// Check module docs, file sizes, file names, crate dependencies and forbidden words.
    Tidy,
    /// Give every reader of files and texts inputs that are nearly right.
    Fuzz(fuzz::Args),
    /// Check golden cases, training and generation on a GPU, and time it.
    GpuCheck(gpu_check::Args),
    /// Measure the methods of the table in the book and write it; about ten minutes in which nothing else should run.
    BookFigures(book_figures::Args),
    /// Make the compact copy of a published BERT checkpoint that is kept in this repository.
    Embed(embed::Args),
}

/// The workspace root: the folder above this package.
///
/// Cargo names the package's folder when it runs the program; the one known at build time serves a
/// program that was started without Cargo.
fn workspace_root() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map_or(package.clone(), PathBuf::from)
}

fn main() -> Result<()> {
    let root = workspace_root();
    match Command::parse() {
        Command::Ci(args) => ci::run(&root, &args),
        Command::Tidy => tidy::run(&root),
        Command::Fuzz(args) => fuzz::run(&root, &args),
        Command::GpuCheck(args) => gpu_check::run(&root, &args),
        Command::BookFigures(args) => book_figures::run(&root, &args),
        Command::Embed(args) => embed::run(&root, &args),
    }
}
