//! `torusctl watch`: prints what changes as it happens, one line each, until it is interrupted.
//!
//! [`view`] knows what there was, and says what each step changed.

mod view;

use std::collections::BTreeSet;
use std::io::{self, Write};

use futures::StreamExt;
use torus_metadata::{EventKind, Followed, Revision, follow_from};

use super::arguments::WatchArguments;
use super::cluster::Cluster;
use crate::failure::{Failure, chain};
use crate::interrupt;
use view::{Line, View};

pub(super) use view::Kind;

/// Prints until it is interrupted, or nobody reads any more.
pub(super) async fn run(
    cluster: &Cluster,
    arguments: &WatchArguments,
    json: bool,
) -> Result<(), Failure> {
    let stop = interrupt::token()?;
    cluster.reach().await?;
    let kinds: BTreeSet<Kind> = arguments.kinds.iter().copied().collect();
    let wanted: BTreeSet<EventKind> = kinds.iter().map(|kind| kind.events()).collect();
    let from = arguments.from.map(Revision);
    let mut steps = follow_from(cluster.meta(), wanted.into_iter().collect(), from);
    let mut view = View::new(kinds);
    loop {
        let step = tokio::select! {
            step = steps.next() => step,
            () = stop.cancelled() => return Ok(()),
        };
        let Some(step) = step else { return Ok(()) };
        if let Followed::Interrupted(error) = &step {
            say(&chain(error));
        }
        if !print(&view.take(step), json)? {
            return Ok(());
        }
    }
}

/// Beside what is read by programs.
#[expect(clippy::print_stderr, reason = "for the person")]
fn say(error: &str) {
    eprintln!("{error}; trying another member");
}

/// Whether somebody still reads.
fn print(lines: &[Line], json: bool) -> Result<bool, Failure> {
    let mut text = String::new();
    for line in lines {
        if json {
            text.push_str(&format!("{}\n", line.json));
        } else if let Some(line) = &line.text {
            text.push_str(&format!("{line}\n"));
        }
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => Ok(written.map(|()| true)?),
    }
}
