//! Asks the writers of volumes, through the metadata, and waits for their answers.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use torus_blockstore::{Epoch, VolumeId};
use torus_metadata::{
    Answer, AskId, Command, Error, Event, EventKind, Followed, Outcome, Refusal, Task, Volume,
    follow,
};

use super::interrupted;
use crate::ctl::cluster::{Cluster, Refused};
use crate::failure::Failure;

/// What came of asking.
pub(super) enum Asked {
    Done,
    /// A volume has no writer any more.
    WriterGone,
}

/// Asks the writers of these volumes, all at once. Who does not answer within `limit` is asked no
/// more.
pub(super) async fn ask(
    cluster: &Cluster,
    volumes: &[&Volume],
    task: &Task,
    limit: Option<Duration>,
    stop: &CancellationToken,
) -> Result<Asked, Failure> {
    let group = volumes.iter().map(|volume| volume.id).collect();
    let asking = Command::AskWriters { volumes: group, task: task.clone() };
    let id = match cluster.attempt(asking).await {
        Ok(applied) => match applied.outcome {
            Outcome::Ask(id) => id,
            _ => return Err(Error::Protocol { what: "an ask" }.into()),
        },
        Err(Refused::Refusal(Refusal::NoWriter { .. })) => return Ok(Asked::WriterGone),
        Err(refused) => return Err(refused.into()),
    };
    let mut replies = Replies::new(id, volumes);
    tokio::select! {
        () = listen(cluster, &mut replies) => {}
        () = stop.cancelled() => {}
        () = expired(limit) => {}
    }
    if replies.is_waited_for() {
        // What is still done behind our back could not be undone.
        withdraw(cluster, &mut replies).await?;
    }
    match replies.verdict() {
        Some(Verdict::Done) => Ok(Asked::Done),
        Some(Verdict::WriterGone) => Ok(Asked::WriterGone),
        Some(Verdict::Refused { volume, error }) => {
            let one = volumes.len() == 1;
            Err(Failure::failed(if one { error } else { format!("volume {volume}: {error}") }))
        }
        None if stop.is_cancelled() => Err(interrupted()),
        None => Err(Failure::failed(replies.silence(limit.unwrap_or_default()))),
    }
}

async fn expired(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Takes in what the metadata says, until there is a verdict.
async fn listen(cluster: &Cluster, replies: &mut Replies) {
    let mut news = follow(cluster.meta(), vec![EventKind::Volume]);
    while replies.verdict().is_none() {
        match news.next().await {
            Some(Followed::Listed(Answer::Volumes { volumes, .. })) => replies.list(&volumes),
            Some(Followed::Changed { events, .. }) => {
                for event in events {
                    match event {
                        Event::VolumeChanged(volume) => replies.look(&volume),
                        Event::VolumeDeleted(id) => replies.deleted(id),
                        _ => {}
                    }
                }
            }
            Some(_) => {}
            None => return,
        }
    }
}

/// Takes the ask back; what was answered before that counts.
async fn withdraw(cluster: &Cluster, replies: &mut Replies) -> Result<(), Failure> {
    cluster.execute(Command::WithdrawAsk { ask: replies.id }).await?;
    replies.list(&cluster.volumes().await?);
    Ok(())
}

/// What is known of an ask.
///
/// Pure: states of volumes in, a verdict out.
struct Replies {
    id: AskId,
    writers: BTreeMap<VolumeId, Writer>,
}

/// The writer of a volume when it was asked.
struct Writer {
    /// The volume's name and who has it in use, for people.
    volume: String,
    owner: String,
    epoch: Epoch,
    reply: Reply,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Waiting,
    Done,
    Refused(String),
    /// It is there no more.
    Gone,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    WriterGone,
    Refused { volume: String, error: String },
}

impl Replies {
    fn new(id: AskId, volumes: &[&Volume]) -> Self {
        let writer = |volume: &&Volume| {
            let owner = volume.lock.as_ref().map_or_else(String::new, |lock| lock.owner.clone());
            let (name, epoch) = (volume.name.clone(), volume.epoch);
            (volume.id, Writer { volume: name, owner, epoch, reply: Reply::Waiting })
        };
        Self { id, writers: volumes.iter().map(writer).collect() }
    }

    /// All volumes that there are.
    fn list(&mut self, volumes: &[Volume]) {
        volumes.iter().for_each(|volume| self.look(volume));
        let there: Vec<VolumeId> = volumes.iter().map(|volume| volume.id).collect();
        let missing: Vec<_> =
            self.writers.keys().filter(|id| !there.contains(id)).copied().collect();
        missing.into_iter().for_each(|id| self.deleted(id));
    }

    fn look(&mut self, volume: &Volume) {
        let Some(writer) = self.writers.get_mut(&volume.id) else { return };
        let is_there = volume.lock.as_ref().is_some_and(|lock| lock.epoch == writer.epoch);
        if let Some(answer) = volume.answers.iter().find(|answer| answer.id == self.id) {
            writer.reply = match &answer.error {
                None => Reply::Done,
                Some(error) if is_there => Reply::Refused(error.clone()),
                // It was the metadata that answered for it.
                Some(_) => Reply::Gone,
            };
        }
    }

    fn deleted(&mut self, id: VolumeId) {
        if let Some(writer) = self.writers.get_mut(&id) {
            writer.reply = Reply::Refused("it was deleted meanwhile".to_owned());
        }
    }

    fn is_waited_for(&self) -> bool {
        self.writers.values().any(|writer| writer.reply == Reply::Waiting)
    }

    /// What came of it, once that is certain.
    fn verdict(&self) -> Option<Verdict> {
        let mut writers = self.writers.values();
        let refused = writers.clone().find_map(|writer| match &writer.reply {
            Reply::Refused(error) => Some((writer.volume.clone(), error.clone())),
            _ => None,
        });
        if let Some((volume, error)) = refused {
            return Some(Verdict::Refused { volume, error });
        }
        if writers.clone().any(|writer| writer.reply == Reply::Gone) {
            return Some(Verdict::WriterGone);
        }
        writers.all(|writer| writer.reply == Reply::Done).then_some(Verdict::Done)
    }

    /// What to say of writers that do not answer.
    fn silence(&self, limit: Duration) -> String {
        let is_silent = |writer: &&Writer| writer.reply == Reply::Waiting;
        let silent: Vec<&Writer> = self.writers.values().filter(is_silent).collect();
        let volumes: Vec<&str> = silent.iter().map(|writer| &*writer.volume).collect();
        format!(
            "{} has {} in use and did not answer within {} s; see whether it is well, or give it \
             longer with --timeout",
            silent.first().map_or("", |writer| &writer.owner),
            volumes.join(", "),
            limit.as_secs(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::volume::tests::volume;
    use expect_test::{Expect, expect};
    use torus_metadata::{Ask, AskAnswer};

    /// Volumes 1 (`disk`) and 2 (`log`), asked in epoch 2, as a script shows them: `1+` answered,
    /// `1-` refused, `1x` closed, `1n` closed and opened anew, `1?` not answered, `1d` deleted, and
    /// `1o` with the answer to another ask.
    #[track_caller]
    fn check(script: &str, expected: Expect) {
        let volumes = [volume(1, "disk", Some("here")), volume(2, "log", Some("here"))];
        let mut replies = Replies::new(AskId(9), &[&volumes[0], &volumes[1]]);
        for step in script.split_whitespace() {
            let (number, what) = step.split_at(1);
            let mut volume = volumes[number.parse::<usize>().unwrap() - 1].clone();
            let answer =
                |error: Option<&str>| AskAnswer { id: AskId(9), error: error.map(str::to_owned) };
            match what {
                "+" => volume.answers.push(answer(None)),
                "-" => volume.answers.push(answer(Some("no room"))),
                "o" => volume.answers.push(AskAnswer { id: AskId(8), error: None }),
                "?" => {
                    let task = Task::Snapshot { name: "mon".to_owned(), created_ms: 1 };
                    volume.asks.push(Ask { id: AskId(9), task, group: vec![] });
                }
                "x" => {
                    volume.lock = None;
                    volume.answers.push(answer(Some("closed")));
                }
                "n" => {
                    volume.lock.as_mut().unwrap().epoch = Epoch(3);
                    volume.answers.push(answer(Some("closed")));
                }
                _ => {
                    replies.deleted(volume.id);
                    continue;
                }
            }
            replies.look(&volume);
        }
        let waits = if replies.is_waited_for() { "waits, " } else { "" };
        expected.assert_eq(&format!("{waits}{:?}", replies.verdict()));
    }

    #[test]
    fn all_must_have_done_it() {
        check("1? 2?", expect!["waits, None"]);
        check("1+ 2?", expect!["waits, None"]);
        check("1+ 2+", expect!["Some(Done)"]);
        check("1+ 2o", expect!["waits, None"]);
    }

    #[test]
    fn one_refusal_decides() {
        check("1+ 2-", expect![[r#"Some(Refused { volume: "log", error: "no room" })"#]]);
        check("1- 2?", expect![[r#"waits, Some(Refused { volume: "disk", error: "no room" })"#]]);
        check(
            "1d 2+",
            expect![[r#"Some(Refused { volume: "disk", error: "it was deleted meanwhile" })"#]],
        );
    }

    #[test]
    fn a_writer_that_closed_is_gone() {
        check("1x 2+", expect!["Some(WriterGone)"]);
        check("1+ 2n", expect!["Some(WriterGone)"]);
        check("1x 2-", expect![[r#"Some(Refused { volume: "log", error: "no room" })"#]]);
    }

    #[test]
    fn silence_is_told() {
        let volumes =
            [volume(1, "disk", Some("torusblk on a")), volume(2, "log", Some("torusblk on a"))];
        let replies = Replies::new(AskId(9), &[&volumes[0], &volumes[1]]);
        expect!["torusblk on a has disk, log in use and did not answer within 30 s; see whether it is well, or give it longer with --timeout"].assert_eq(&replies.silence(Duration::from_secs(30)));
    }
}
