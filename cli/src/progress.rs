//! The bar on standard error while a child runs. `indicatif` hides it where standard error is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Allocator;

const TEMPLATE: &str = "{prefix} {wide_bar} {percent:>3} % {msg}";

/// One child's progress; the bar goes away with the value.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar for `total` operations.
    pub fn new(trace: &str, allocator: Allocator, total: u64) -> Self {
        let bar = ProgressBar::new(total);
        bar.set_style(ProgressStyle::with_template(TEMPLATE).expect("a constant, and tested"));
        bar.set_prefix(format!("{trace} · {allocator}"));
        bar.tick();
        Self(bar)
    }

    /// So many operations are done.
    pub fn update(&self, done: u64) {
        self.0.set_position(done);
    }

    /// All are done, and the process waits to see what its memory does.
    pub fn settling(&self) {
        self.0.set_position(self.0.length().unwrap_or(0));
        self.0.set_message("settling");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid() {
        let progress = Progress::new("trace", Allocator::System, 100);
        progress.update(50);
        assert_eq!(progress.0.position(), 50);
        progress.settling();
        assert_eq!(progress.0.position(), 100);
    }
}
