//! The six promises of a watch (as etcd names them: ordered, unique, reliable, atomic, resumable,
//! bookmarkable) while members are killed, come back and lead in turn.

use std::collections::BTreeMap;

use tokio::sync::watch;
use torus_blockstore::VolumeId;

use super::*;
use crate::{Revision, WatchItem};

/// What a watcher got.
#[derive(Clone, Debug, Default)]
struct Record {
    changes: BTreeMap<u64, Vec<Event>>,
    /// The newest revision that it knows everything up to.
    last: u64,
    /// The progress marks, each with how many changes had come before it.
    marks: Vec<(u64, usize)>,
    resumed: usize,
}

impl Record {
    /// Takes an item, which must be newer than whatever came before it.
    fn take(&mut self, item: WatchItem) {
        match item {
            WatchItem::Events { revision, events } => {
                assert!(revision.0 > self.last, "{revision} came after {}", self.last);
                assert!(!events.is_empty());
                self.last = revision.0;
                self.changes.insert(revision.0, events);
            }
            WatchItem::Progress(revision) => {
                assert!(revision.0 >= self.last, "the mark {revision} after {}", self.last);
                self.last = revision.0;
                self.marks.push((revision.0, self.changes.len()));
            }
            WatchItem::Listed(answer) => panic!("{answer:?} was not asked for"),
        }
    }
}

struct Watcher {
    record: watch::Receiver<Record>,
    task: AbortOnDropHandle<()>,
}

impl Watcher {
    /// Watches from `from` on, and goes on elsewhere when a member breaks off. A slow one takes its
    /// next item only when `pace` has grown by 40.
    fn start(
        client: &Client,
        from: u64,
        kinds: Vec<EventKind>,
        pace: Option<watch::Receiver<u64>>,
    ) -> Self {
        let (client, mut pace) = (client.clone(), pace);
        let (publish, record) = watch::channel(Record { last: from, ..Record::default() });
        let task = tokio::spawn(async move {
            loop {
                let mut items = client.watch(Revision(publish.borrow().last), kinds.clone());
                while let Some(Ok(item)) = items.next().await {
                    publish.send_modify(|record| record.take(item));
                    if let Some(pace) = &mut pace {
                        let next = *pace.borrow() + 40;
                        if pace.wait_for(|now| *now >= next).await.is_err() {
                            // The writer has ended: it may read as it can.
                            continue;
                        }
                    }
                }
                publish.send_modify(|record| record.resumed += 1);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { record, task: AbortOnDropHandle::new(task) }
    }

    async fn up_to(&mut self, revision: u64) -> Record {
        let there = self.record.wait_for(|record| record.last >= revision);
        let record = tokio::time::timeout(PATIENCE, there).await.expect("all of it comes");
        assert!(!self.task.is_finished());
        record.expect("the watcher goes on").clone()
    }
}

/// Changes things until told to stop; what each answered command said it had made.
async fn write(
    client: Client,
    stop: CancellationToken,
    pace: watch::Sender<u64>,
) -> BTreeMap<u64, VolumeId> {
    let mut made = BTreeMap::new();
    let mut number = 0;
    while !stop.is_cancelled() {
        number += 1;
        let applied = client.execute_until_answered(create(&format!("w{number}"))).await.unwrap();
        let Outcome::Volume(volume) = applied.outcome else { panic!("{applied:?}") };
        made.insert(applied.revision.0, volume.id);
        if number % 3 == 0 {
            let delete = Command::DeleteVolume { volume: volume.id, force: false };
            let applied = client.execute_until_answered(delete).await.unwrap();
            made.insert(applied.revision.0, volume.id);
        }
        pace.send_replace(applied.revision.0);
    }
    made
}

/// A session that holds the locks of two volumes ends: one revision, three events.
async fn end_a_session_with_locks(client: &Client) -> u64 {
    let session = open_session(client, 60_000).await;
    for name in ["a", "b"] {
        let made = client.execute(create(name)).await.unwrap().outcome;
        let Outcome::Volume(volume) = made else { panic!("{made:?}") };
        client.execute(Command::LockVolume { volume: volume.id, session }).await.unwrap();
    }
    client.execute(Command::CloseSession(session)).await.unwrap().revision.0
}

/// Everything that the member at `address` still tells from behind `from` on.
async fn told_by(address: &str, from: u64, up_to: u64) -> Option<BTreeMap<u64, Vec<Event>>> {
    let client = Client::new([address.to_owned()]);
    let mut record = Record { last: from, ..Record::default() };
    let mut items = client.watch(Revision(from), vec![]);
    while record.last < up_to {
        match tokio::time::timeout(PATIENCE, items.next()).await.unwrap().unwrap() {
            Ok(item) => record.take(item),
            Err(Error::Compacted { compacted }) => {
                assert!(compacted.0 > from, "{compacted} says nothing about {from}");
                return None;
            }
            Err(error) => panic!("{error}"),
        }
    }
    record.changes.retain(|revision, _| *revision <= up_to);
    Some(record.changes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_keep_their_promises_while_members_come_and_go() {
    let mut daemons = Vec::from(three().await);
    let client = Client::new(daemons.iter().map(|daemon| daemon.address.clone()));
    let (pace, paced) = watch::channel(0);
    let stop = CancellationToken::new();
    let mut all = Watcher::start(&client, 0, vec![], None);
    let mut slow = Watcher::start(&client, 0, vec![], Some(paced.clone()));
    let mut volumes = Watcher::start(&client, 0, vec![EventKind::Volume], None);
    let together = end_a_session_with_locks(&client).await;
    let writer = tokio::spawn(write(client.clone(), stop.clone(), pace));
    let mut paced = paced;

    for round in 0..2 {
        let reached = *paced.borrow() + 60;
        paced.wait_for(|now| *now >= reached).await.unwrap();
        // First the leader, then another that has all its history, so that one is left that has.
        let leader = client.leader().await;
        let at = daemons.iter().position(|daemon| round > 0 || daemon.address == leader).unwrap();
        let (number, address, dir) = daemons.remove(at).kill().await;
        let reached = *paced.borrow() + 60;
        paced.wait_for(|now| *now >= reached).await.unwrap();
        daemons.push(Daemon::start_on(number, &address, dir, Vec::new()).await);
        if round == 0 {
            daemons[0].admin().transfer_leader(None).await.unwrap();
        }
    }
    stop.cancel();
    let made = writer.await.unwrap();
    let end = *made.keys().next_back().unwrap();

    // One that starts in the future hears nothing of the past.
    let mut future = Watcher::start(&client, end + 5, vec![], None);
    for number in 0..8 {
        client.execute(create(&format!("late{number}"))).await.unwrap();
    }
    let end = client.execute(create("last")).await.unwrap().revision.0;
    let future = future.up_to(end).await;
    assert!(future.changes.keys().all(|revision| *revision > end - 4), "{future:?}");

    let all = all.up_to(end).await;
    // Reliable: each revision is one more than the one before, so none is missing. But that the two
    // newcomers were given numbers in the group is nothing to be watched.
    let missing: Vec<_> = (1..=end).filter(|it| !all.changes.contains_key(it)).collect();
    assert!(missing.len() == 2 && missing.iter().all(|it| *it < together), "{missing:?}");
    for (revision, id) in &made {
        let of = |event: &Event| match event {
            Event::VolumeChanged(volume) => volume.id == *id,
            Event::VolumeDeleted(deleted) => deleted == id,
            _ => false,
        };
        assert!(all.changes[revision].iter().any(of), "{revision}: {:?}", all.changes[revision]);
    }
    // Atomic: what one command did comes at once.
    assert_eq!(all.changes[&together].len(), 3, "{:?}", all.changes[&together]);
    // A slow one gets the same.
    let slow = slow.up_to(end).await;
    assert!(slow.changes.range(..=end).eq(all.changes.range(..=end)));
    // Bookmarkable: whoever goes on behind a mark has everything before it.
    let volumes = volumes.up_to(end).await;
    // They watch members that do not lead, and one of those was killed too.
    assert!(all.resumed + slow.resumed + volumes.resumed > 0, "no fault was met");
    let wanted = |(_, events): &(&u64, &Vec<Event>)| {
        events.iter().any(|event| event.kind() == EventKind::Volume)
    };
    for (mark, count) in &volumes.marks {
        let before = all.changes.range(..=*mark).filter(wanted).count();
        assert!(*mark > end || before == *count, "{before} changes up to {mark}, {count} came");
    }
    assert!(!volumes.marks.is_empty() || volumes.last >= end);
    // Resumable: from any place, on any member that still has it, the same.
    let mut compared = 0;
    for daemon in &daemons {
        for from in [0, end / 2, end - 9] {
            if let Some(told) = told_by(&daemon.address, from, end).await {
                assert!(told.iter().eq(all.changes.range(from + 1..=end)), "from {from}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 3, "{compared}");
    for daemon in daemons {
        daemon.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_and_what_follows_it_are_one() {
    let daemons = three().await;
    let clients = || daemons.iter().map(|daemon| Client::new([daemon.address.clone()]));
    let client = daemons[0].client();
    let (pace, mut paced) = watch::channel(0);
    let stop = CancellationToken::new();
    let writer = tokio::spawn(write(client.clone(), stop.clone(), pace));
    for lister in clients() {
        let reached = *paced.borrow() + 20;
        paced.wait_for(|now| *now >= reached).await.unwrap();
        let kinds = vec![EventKind::Volume, EventKind::Member];
        let mut items = lister.list_and_watch(kinds.clone());
        let Some(Ok(WatchItem::Listed(Answer::Volumes { volumes, revision, .. }))) =
            items.next().await
        else {
            panic!("the volumes come first")
        };
        assert!(revision.0 >= reached, "the list is of {revision}, before {reached}");
        let mut known: BTreeMap<_, _> = volumes.into_iter().map(|it| (it.id, it)).collect();
        let Some(Ok(WatchItem::Listed(Answer::Group { group, revision: same }))) =
            items.next().await
        else {
            panic!("the group comes next")
        };
        assert_eq!((group.members.len(), same), (3, revision));
        let mut at = revision;
        while at.0 < revision.0 + 30 {
            if let WatchItem::Events { revision, events } = items.next().await.unwrap().unwrap() {
                at = revision;
                for event in events {
                    match event {
                        Event::VolumeChanged(volume) => drop(known.insert(volume.id, volume)),
                        Event::VolumeDeleted(id) => assert!(known.remove(&id).is_some(), "{id}"),
                        other => panic!("{other:?} was not asked for"),
                    }
                }
            }
        }
        // The list and the events together are what a list says now.
        let mut again = lister.list_and_watch(kinds);
        let Some(Ok(WatchItem::Listed(Answer::Volumes { volumes, revision, .. }))) =
            again.next().await
        else {
            panic!("the volumes come first")
        };
        while at < revision {
            match items.next().await.unwrap().unwrap() {
                WatchItem::Events { revision: now, events } if now <= revision => {
                    at = now;
                    for event in events {
                        match event {
                            Event::VolumeChanged(volume) => drop(known.insert(volume.id, volume)),
                            Event::VolumeDeleted(id) => drop(known.remove(&id)),
                            other => panic!("{other:?} was not asked for"),
                        }
                    }
                }
                WatchItem::Events { .. } => break,
                WatchItem::Progress(now) => at = now,
                WatchItem::Listed(answer) => panic!("{answer:?} came again"),
            }
        }
        assert_eq!(known.into_values().collect::<Vec<_>>(), volumes);
    }
    stop.cancel();
    writer.await.unwrap();
    for daemon in daemons {
        daemon.kill().await;
    }
}
