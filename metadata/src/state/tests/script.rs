//! How a script is read and run, and how what came of it is shown.

use std::fmt::Write as _;

use expect_test::Expect;
use torus_blockstore::{BlockIndex, Epoch, INodeIndex, VolumeId};

use crate::fixtures;
use crate::state::State;
use crate::{
    Ask, AskAnswer, AskId, Command, Event, Head, LogPosition, Outcome, Parent, RingVersion,
    SessionId, Snapshot, SnapshotId, Task, Volume, Window,
};

/// Runs `script` on an initialised state, and compares the answers.
#[track_caller]
pub(super) fn check(script: &str, expected: Expect) {
    let mut state = State::default();
    state.apply(1, fixtures::init()).0.unwrap();
    check_on(state, script, expected);
}

#[track_caller]
pub(super) fn check_on(mut state: State, script: &str, expected: Expect) {
    let mut said = String::new();
    for (index, line) in (10..).zip(script.trim().lines()) {
        let line = line.trim();
        match line.split_once(' ') {
            Some(("show", id)) => {
                let volume = &state.volumes[&VolumeId::new(number(id)).unwrap()];
                writeln!(said, "{line}: {}", show(volume)).unwrap();
            }
            Some(("all", id)) => {
                let volume = &state.volumes[&VolumeId::new(number(id)).unwrap()];
                writeln!(said, "{line}: {}", all(volume)).unwrap();
            }
            Some(("rings", _)) => {
                let kept: Vec<_> = state.rings.keys().map(|version| version.0).collect();
                writeln!(said, "rings: {kept:?}").unwrap();
            }
            _ => {
                let before = state.clone();
                let (response, events) = state.apply(index, parse(line));
                let events: Vec<_> = events.iter().map(name).collect();
                match response {
                    Ok(applied) => {
                        let outcome = outcome(applied.outcome);
                        writeln!(said, "{line}: r{} {outcome}{}", applied.revision, events.concat())
                    }
                    Err(refusal) => {
                        assert_eq!(state, before, "a refused command changes nothing: {line}");
                        writeln!(said, "{line}: {refusal}")
                    }
                }
                .unwrap();
            }
        }
    }
    expected.assert_eq(&said);
}

fn number<N: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> N {
    text.parse().unwrap()
}

#[expect(clippy::too_many_lines, reason = "a table of the commands")]
pub(super) fn parse(line: &str) -> Command {
    let words: Vec<&str> = line.split(' ').collect();
    let at = |index: usize| number::<u64>(words[index]);
    let volume = || VolumeId::new(at(1)).unwrap();
    let epoch = |index| Epoch(at(index));
    let position = |index| LogPosition {
        inode: INodeIndex(at(index)),
        block: BlockIndex(at(index + 1)),
        offset: number(words[index + 2]),
    };
    let snapshot = |index| SnapshotId(at(index));
    let ask = |index: usize| words.get(index).map(|word| AskId(number(word)));
    match words[0] {
        "init" => fixtures::init(),
        "node" => Command::AllocateNode { peer: fixtures::peer_id(at(1).into()) },
        "register" => Command::RegisterPeer(fixtures::peer(at(1).into())),
        "remove" => Command::RemovePeer(fixtures::peer_id(at(1).into())),
        "ring" => {
            let peers: Vec<u128> = words[2..].iter().map(|word| number(word)).collect();
            Command::SetRing(fixtures::ring(at(1), &peers))
        }
        "create" => Command::CreateVolume { name: words[1].to_owned(), size: at(2), spec: None },
        word @ ("delete" | "delete!") => {
            Command::DeleteVolumeNamed { name: words[1].to_owned(), force: word == "delete!" }
        }
        "delete#" => Command::DeleteVolume { volume: volume(), force: false },
        "rename" => Command::RenameVolume { name: words[1].to_owned(), to: words[2].to_owned() },
        "clone" => {
            let name = words[3].to_owned();
            Command::CloneVolume { volume: volume(), snapshot: snapshot(2), name }
        }
        // grow VOLUME SIZE [ASK], resize VOLUME EPOCH SIZE [ASK]
        "grow" => Command::ResizeVolume { volume: volume(), epoch: None, size: at(2), ask: ask(3) },
        "resize" => {
            let epoch = Some(epoch(2));
            Command::ResizeVolume { volume: volume(), epoch, size: at(3), ask: ask(4) }
        }
        word @ ("drop" | "drop!") => {
            let force = word == "drop!";
            Command::DeleteSnapshot { volume: volume(), snapshot: snapshot(2), force }
        }
        "pin" => {
            let session = SessionId(at(3));
            Command::PinSnapshot { volume: volume(), snapshot: snapshot(2), session }
        }
        // ask VOLUME[,VOLUME…] TASK
        "ask" => {
            let volumes = words[1].split(',').map(|id| VolumeId::new(number(id)).unwrap());
            Command::AskWriters { volumes: volumes.collect(), task: task(&words[2..]) }
        }
        "withdraw" => Command::WithdrawAsk { ask: AskId(at(1)) },
        "open" => Command::OpenSession { owner: words[1].to_owned(), ttl_ms: number(words[2]) },
        "close" => Command::CloseSession(SessionId(at(1))),
        "expire" => Command::ExpireSessions((1..words.len()).map(|i| SessionId(at(i))).collect()),
        "lock" => Command::LockVolume { volume: volume(), session: SessionId(at(2)) },
        "relock" => {
            let session = SessionId(at(2));
            Command::RelockVolume { volume: volume(), session, epoch: epoch(3) }
        }
        "unlock" => Command::UnlockVolume { volume: volume(), epoch: epoch(2), is_clean: true },
        "reserve" => Command::ReserveINodes { volume: volume(), epoch: epoch(2), count: at(3) },
        // window VOLUME EPOCH INODE RING FIRST COUNT [after INODE BLOCK OFFSET]
        "window" => {
            let window = Window {
                epoch: epoch(2),
                inode: INodeIndex(at(3)),
                ring: RingVersion(at(4)),
                excluded: [].into(),
                first: BlockIndex(at(5)),
                count: at(6),
                after: (words.len() > 7).then(|| position(8)),
            };
            Command::CommitWindow { volume: volume(), window }
        }
        // head VOLUME EPOCH INODE INODE BLOCK OFFSET
        "head" => {
            let inode = INodeIndex(at(3));
            let volume = volume();
            let head = Head { volume, inode, blocks: 1, epoch: epoch(2), position: position(4) };
            Command::CommitHead { volume, head }
        }
        // head-of VOLUME EPOCH OWNER INODE BLOCKS INODE BLOCK OFFSET
        "head-of" => {
            let owner = VolumeId::new(at(3)).unwrap();
            let (inode, blocks, position) = (INodeIndex(at(4)), at(5), position(6));
            let head = Head { volume: owner, inode, blocks, epoch: epoch(2), position };
            Command::CommitHead { volume: volume(), head }
        }
        // snapshot VOLUME EPOCH NAME [ASK]: of 4096 bytes
        "snapshot" => {
            let (volume, epoch, created_ms, ask) = (volume(), epoch(2), 7, ask(4));
            let (name, size) = (words[3].to_owned(), 4096);
            Command::CommitSnapshot { volume, epoch, name, size, created_ms, ask }
        }
        "restore" => {
            Command::RestoreSnapshot { volume: volume(), epoch: epoch(2), snapshot: snapshot(3) }
        }
        "flattened" => Command::CommitFlattened { volume: volume(), epoch: epoch(2), ask: ask(3) },
        // reclaimed VOLUME EPOCH INODE EPOCH INODE BLOCK OFFSET
        "reclaimed" => {
            let volume = volume();
            let (inode, position) = (INodeIndex(at(3)), position(5));
            let head = Head { volume, inode, blocks: 1, epoch: epoch(4), position };
            Command::CommitReclaimed { volume, epoch: epoch(2), head }
        }
        "refuse" => {
            let (ask, error) = (AskId(at(3)), words[4..].join(" "));
            Command::RefuseAsk { volume: volume(), epoch: epoch(2), ask, error }
        }
        word => panic!("no command {word:?}"),
    }
}

fn task(words: &[&str]) -> Task {
    match *words {
        ["snapshot", name] => Task::Snapshot { name: name.to_owned(), created_ms: 7 },
        ["resize", size] => Task::Resize { size: number(size), discard: false },
        ["flatten"] => Task::Flatten,
        _ => panic!("no task {words:?}"),
    }
}

fn outcome(outcome: Outcome) -> String {
    match outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Volume(volume) => format!("volume {}", volume.id),
        Outcome::Session(session) => format!("session {session}"),
        Outcome::Epoch(epoch) => format!("epoch {epoch}"),
        Outcome::INode(inode) => format!("inode {}", inode.0),
        Outcome::Node(node) => format!("node {node}"),
        Outcome::Snapshot(snapshot) => format!("snapshot {snapshot}"),
        Outcome::Ask(ask) => format!("ask {ask}"),
    }
}

fn name(event: &Event) -> String {
    match event {
        Event::Initialised(_) => " +init".to_owned(),
        Event::PeerChanged(peer) => match peer.node {
            Some(node) => format!(" +peer {}@{node}", peer.id.0.as_u128()),
            None => format!(" +peer {}", peer.id.0.as_u128()),
        },
        Event::PeerRemoved(peer) => format!(" -peer {}", peer.0.as_u128()),
        Event::RingChanged(ring) => format!(" +ring {}", ring.version),
        Event::VolumeChanged(volume) => format!(" +volume {}", volume.id),
        Event::VolumeDeleted(volume) => format!(" -volume {volume}"),
        Event::SessionOpened(session) => format!(" +session {}", session.id),
        Event::SessionEnded(session) => format!(" -session {session}"),
        Event::GroupChanged(group) => format!(" +group of {}", group.members.len()),
    }
}

fn show(volume: &Volume) -> String {
    let windows: Vec<_> = volume
        .windows
        .iter()
        .map(|w| format!("{}:{}..{}", w.inode.0, w.first.0, w.first.0 + w.count))
        .collect();
    let lock = volume.lock.as_ref().map_or("free".to_owned(), |lock| lock.owner.clone());
    let head = volume.head.as_ref().map(|head| head.inode.0);
    format!("{lock} epoch {} head {head:?} windows {windows:?}", volume.epoch)
}

/// What `show` leaves out.
fn all(volume: &Volume) -> String {
    let head = |head: &Head| {
        let LogPosition { inode, block, offset } = head.position;
        let at = format!("{}/{}/{offset}", inode.0, block.0);
        format!("{}:{} epoch {} log {at}", head.volume, head.inode.0, head.epoch)
    };
    let snapshot = |snapshot: &Snapshot| {
        let readers: Vec<_> = snapshot.readers.iter().map(|session| session.0).collect();
        let parent = if snapshot.needs_parent { " needs parent" } else { "" };
        let Snapshot { id, name, size, .. } = snapshot;
        format!("{id}={name} size {size} head {} readers {readers:?}{parent}", head(&snapshot.head))
    };
    let ask = |ask: &Ask| {
        let group: Vec<_> = ask.group.iter().map(|volume| volume.get()).collect();
        format!("{} of {group:?}: {:?}", ask.id, ask.task)
    };
    let answer = |AskAnswer { id, error }: &AskAnswer| match error {
        Some(error) => format!("{id}: {error}"),
        None => format!("{id}: done"),
    };
    let mut said = format!("{} size {}", volume.name, volume.size);
    let mut line = |what: &str, text: String| {
        write!(said, "\n    {what} {text}").unwrap();
    };
    volume.head.iter().for_each(|it| line("head", head(it)));
    if let Some(Parent { volume, snapshot, needed_by_head }) = volume.parent {
        line("parent", format!("{volume}@{snapshot}, needed by head: {needed_by_head}"));
    }
    volume.snapshots.iter().for_each(|it| line("snapshot", snapshot(it)));
    volume.retired.iter().for_each(|it| line("retired", head(it)));
    volume.asks.iter().for_each(|it| line("ask", ask(it)));
    volume.answers.iter().for_each(|it| line("answer", answer(it)));
    said
}

/// Runs the first commands of a test, none of which is refused.
pub(super) fn prepared(script: &str) -> State {
    let mut state = State::default();
    state.apply(1, fixtures::init()).0.unwrap();
    for line in script.trim().lines() {
        let line = line.trim();
        if let Err(refusal) = state.apply(2, parse(line)).0 {
            panic!("{line}: {refusal}");
        }
    }
    state
}
