//! How far a transfer is: a line on standard error, where that is a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two pictures of the bar.
const TICK: Duration = Duration::from_millis(200);
const BAR: &str = "{msg} [{bar:30}] {percent:>3}% {bytes} of {total_bytes}, \
                        {binary_bytes_per_sec}, {eta} left";
const SPINNER: &str = "{spinner} {msg}, {elapsed}";

/// A transfer that goes on.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    began: Instant,
}

impl Progress {
    /// Begins now.
    #[expect(clippy::disallowed_methods, reason = "people are told how long it took")]
    pub(super) fn begin(what: String) -> Self {
        let bar = ProgressBar::no_length().with_message(what).with_style(style(SPINNER));
        bar.enable_steady_tick(TICK);
        Self { bar, began: Instant::now() }
    }

    /// There are so many bytes to go through.
    pub(super) fn expect(&self, total: u64) {
        self.bar.set_style(style(BAR));
        self.bar.set_length(total);
        // What came before is not to slow down the rate.
        self.bar.reset();
    }

    /// Everything up to this byte is done, or under way.
    pub(super) fn reach(&self, position: u64) {
        if position > self.bar.position() {
            self.bar.set_position(position);
        }
    }

    /// How long it has taken.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends it: the line is gone, so that the report stands alone.
    pub(super) fn end(self) -> Duration {
        self.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in [BAR, SPINNER] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn progress_never_goes_back() {
        let progress = Progress::begin("importing disk".to_owned());
        progress.expect(100);
        [10, 50, 20].iter().for_each(|position| progress.reach(*position));
        assert_eq!(progress.bar.position(), 50);
    }
}
