//! One line for each thing that is wrong, with what to do about it. Pure.

use torus_metadata::{RingKind, Volume};

use super::Store;
use crate::ctl::import::is_temporary;
use crate::ctl::member::{Group, Row as Member};
use crate::ctl::peer::Row;
use crate::ctl::report::{count, percent};
use crate::size::Bytes;

/// Log entries that a member may be behind while all is well.
const LAG_MAX: u64 = 1000;
/// Milliseconds for which a leader may hear of no majority while all is well.
const SILENCE_MAX_MS: u64 = 3000;
/// Log entries behind the snapshot; four times as many as there should be.
const UNSAVED_MAX: u64 = 200_000;
/// Percent of a store that may be used before somebody should think of more.
const USED_MUCH: f64 = 80.0;
/// Percent of a store that may be used before somebody should do something now.
const USED_MAX: f64 = 90.0;

/// On the members of the group.
pub(in crate::ctl) fn on_group(group: &Group) -> Vec<String> {
    let mut lines = Vec::new();
    let (voters, up, majority) = group.votes();
    if group.leader.is_none() {
        let need = if up < majority {
            format!(
                "start members until {majority} of {voters} voters are up; if they are lost for good, see \
                 'torusctl recover'"
            )
        } else {
            "an election is under way; ask again in some seconds".to_owned()
        };
        lines.push(format!("no member leads, so nothing can be changed: {need}"));
    }
    if let Some(ms) = group.quorum_acked_ms.filter(|ms| *ms > SILENCE_MAX_MS) {
        lines.push(format!(
            "the leader has heard of no majority for {} s: look at its network, and at the other \
             members",
            ms / 1000
        ));
    }
    if group.joint {
        lines.push(
            "a change of the voters has begun and not ended: the leader ends it by itself; if it \
             stays so, repeat the command that began it"
                .to_owned(),
        );
    }
    lines.extend(group.members.iter().filter_map(|row| on_absent(row, group.leader.is_some())));
    lines.extend(group.members.iter().filter_map(on_disk));
    let newest = group.members.iter().filter_map(|row| row.feature_level).max();
    for row in &group.members {
        if let (Some(level), Some(newest)) = (row.feature_level, newest)
            && level < newest
        {
            lines.push(format!(
                "member {} at {} knows feature level {level}, others {newest}: upgrade it, as until \
                 then what is new is refused",
                row.id, row.address
            ));
        }
    }
    for row in &group.members {
        if let Some(lag) = row.lag.filter(|lag| row.state == "up" && *lag > LAG_MAX) {
            lines.push(format!(
                "member {} at {} is {lag} log entries behind: look at its disk and its network",
                row.id, row.address
            ));
        }
    }
    lines
}

/// On a member that is not there.
fn on_absent(row: &Member, has_leader: bool) -> Option<String> {
    let (id, address) = (row.id, &row.address);
    // Without a leader nobody can be removed.
    let remove =
        if has_leader { format!(", or 'torusctl member remove {id}'") } else { String::new() };
    match row.state {
        "up" => None,
        "other cluster" => Some(format!(
            "at the address of member {id}, {address}, a daemon of another cluster listens: start the \
             member's own there{remove}"
        )),
        "other member" => Some(format!(
            "at the address of member {id}, {address}, another member listens, so this one is gone: \
             two daemons cannot share an address{remove}"
        )),
        "no member" => Some(format!(
            "the daemon at the address of member {id}, {address}, has no metadata: start it with its \
             data directory, or with --join as a new member{remove}"
        )),
        _ => Some(format!("member {id} at {address} does not answer: start it{remove}")),
    }
}

/// On a member's disk.
fn on_disk(row: &Member) -> Option<String> {
    let (id, address) = (row.id, &row.address);
    if row.is_full {
        return Some(format!(
            "the disk of member {id} at {address} is full, and it takes no change of the metadata: \
             free some space there"
        ));
    }
    let unsaved = row.unsaved.filter(|unsaved| *unsaved > UNSAVED_MAX)?;
    Some(format!(
        "member {id} at {address} has written no snapshot for {unsaved} log entries: look at its \
         disk and its log"
    ))
}

/// On the peers, the ring and the volumes.
pub(super) fn on_store(store: &Store) -> Vec<String> {
    let mut lines = on_ring(store);
    for row in &store.peers.peers {
        let name = row.name();
        if row.member && !row.is_up() {
            lines.push(format!(
                "peer {name} is in the ring and is {}: start it, or 'torusctl peer remove {} \
                 --force' has its blocks copied elsewhere",
                row.state, row.uuid
            ));
        } else if row.member {
            lines.extend(on_fill(row));
        } else if row.is_up() && row.used.is_some_and(|used| used > 0) {
            lines.push(format!(
                "peer {name} is not in the ring and still holds {} of blocks: let it run until they have \
                 moved, or 'torusctl peer add {name}'",
                Bytes(row.used.unwrap_or(0))
            ));
        } else if row.is_up() {
            lines.push(format!(
                "peer {name} stores nothing: 'torusctl peer add {name}', or stop it"
            ));
        } else {
            lines.push(format!(
                "peer {name} is {}: start it, or 'torusctl peer forget {}'",
                row.state, row.uuid
            ));
        }
    }
    lines.extend(on_room(store));
    lines.extend(on_imports(store));
    lines
}

/// On a store that is nearly full.
fn on_fill(row: &Row) -> Option<String> {
    let (used, size) = (row.used?, row.size?);
    let (name, share) = (row.name(), percent(used, size));
    let more = "add peers, start it with a larger --size, or delete volumes and snapshots";
    if size > 0 && size - used.min(size) <= row.reserve? {
        Some(format!(
            "the store of peer {name} is full ({share:.0}%), and writes of volumes that need it are \
             refused for want of space: {more}"
        ))
    } else if share >= USED_MAX {
        Some(format!(
            "the store of peer {name} is {share:.0}% full, and writes will soon be refused for want \
             of space: {more}"
        ))
    } else if share >= USED_MUCH {
        Some(format!("the store of peer {name} is {share:.0}% full: {more}"))
    } else {
        None
    }
}

/// On volumes that imports have left.
fn on_imports(store: &Store) -> impl Iterator<Item = String> {
    let is_left = |volume: &&Volume| volume.lock.is_none() && is_temporary(&volume.name);
    store.volumes.iter().filter(is_left).map(|volume| {
        let name = &volume.name;
        format!(
            "volume {name} was left by an import that was killed, or is about to get its name: \
             'torusctl volume delete {name}' if no import is running"
        )
    })
}

/// On volumes that promise more than the ring's peers could hold, those that are down too.
fn on_room(store: &Store) -> Option<String> {
    let members = u64::try_from(store.ring.members.len()).unwrap_or(u64::MAX);
    let copies = members.min(store.ring.replication.into()).max(1);
    let sizes = store.peers.peers.iter().filter(|row| row.member).filter_map(|row| row.size);
    let room = sizes.fold(0, u64::saturating_add) / copies;
    (0 < room && room < store.promised()).then(|| {
        format!(
            "the volumes promise {}, and the peers have room for {} with {}: add peers before \
             they fill up",
            Bytes(store.promised()),
            Bytes(room),
            if copies == 1 { "1 copy".to_owned() } else { format!("{copies} copies") },
        )
    })
}

fn on_ring(store: &Store) -> Vec<String> {
    let members = store.ring.members.len();
    let wanted = match store.ring.kind {
        RingKind::Single => 1,
        _ => usize::try_from(store.ring.replication).unwrap_or(usize::MAX),
    };
    match members {
        0 => vec![
            "the ring has no peers, so nothing can be stored: 'torusctl peer add --all-peers'"
                .to_owned(),
        ],
        _ if members < wanted => vec![format!(
            "the ring has {} for replication {wanted}: add peers, or 'torusctl ring \
             set-replication {members}'",
            count(members, "peer")
        )],
        _ => vec![],
    }
}
