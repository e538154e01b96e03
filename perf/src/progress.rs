//! What a run is doing, on stderr: a bar on a terminal, a line for each step elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn new(steps: usize) -> Progress {
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:20} {pos}/{len} {elapsed} {wide_msg}")
                .expect("the template is well-formed");
            let bar = ProgressBar::new(steps as u64).with_style(style);
            bar.enable_steady_tick(Duration::from_secs(1));
            bar
        });
        Progress { bar }
    }

    /// Begins a step, which ends the one before.
    pub fn step(&self, title: &str) {
        match &self.bar {
            Some(bar) => {
                if !bar.message().is_empty() {
                    bar.inc(1);
                }
                bar.set_message(title.to_owned());
            }
            None => eprintln!("{title}"),
        }
    }

    /// Leaves a line that stays.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
