//! How much of some files was transferred.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::LINE_EVERY;

/// Shows how much of some files was transferred: a bar on a terminal, lines otherwise.
pub(crate) struct Transfer {
    bar: Option<ProgressBar>,
    /// Bytes of the files before this one, and of this one so far.
    done: (u64, u64),
    all: u64,
    file: String,
    last_line: Instant,
}

impl Transfer {
    /// Of so many bytes.
    pub(crate) fn new(all: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
            let style =
                ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self {
            bar,
            done: (0, 0),
            all,
            file: String::new(),
            last_line: Instant::now(),
        }
    }

    /// A file begins.
    pub(crate) fn begin(&mut self, file: &str) {
        self.file = file.to_owned();
        match &self.bar {
            Some(bar) => bar.set_message(self.file.clone()),
            None => note!("downloading {file}"),
        }
    }

    /// So many bytes of it are there.
    pub(crate) fn at(&mut self, bytes: u64) {
        self.done.1 = bytes;
        let done = self.done.0 + bytes;
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                let (done, all) = (HumanBytes(done), HumanBytes(self.all));
                note!("{done} of {all}, {}", self.file);
            }
            None => {}
        }
    }

    /// The file is there.
    pub(crate) fn end(&mut self) {
        self.done = (self.done.0 + self.done.1, 0);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
