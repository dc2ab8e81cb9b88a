//! Snapshots are taken and installed while entries are applied.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Everything that a machine holds, in one number.
fn hash(list: &List) -> u32 {
    let mut bytes = Vec::new();
    list.snapshot()(&mut bytes).unwrap();
    crc32fast::hash(&bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_holds_a_prefix_of_the_log_whatever_is_applied_meanwhile() {
    let first = Arc::new(Member::start(How::Bootstrap, 7).await.unwrap());
    let enough = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (first, enough) = (Arc::clone(&first), Arc::clone(&enough));
            tokio::spawn(async move {
                let mut number = 0;
                while !enough.load(Ordering::Relaxed) {
                    first.write(&format!("{writer}-{number}")).await.unwrap();
                    number += 1;
                }
            })
        })
        .collect();
    // They join while the others write, so each installs some snapshot and follows from there.
    let mut joined = Vec::new();
    for node in 2..5 {
        let wanted = first.node.status().snapshot.map_or(7, |last| last + 7);
        first.until("a snapshot", |now| now.snapshot >= Some(wanted)).await;
        let member = Member::start(How::Join(node), 7).await.unwrap();
        first.node.add_learner(node, &member.address).await.unwrap();
        joined.push(member);
    }
    enough.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    // The status may be a moment behind what is applied; it changes after it.
    let lines = first.list.lines();
    for member in joined {
        member.until("all entries", |_| member.list.lines().len() == lines.len()).await;
        assert_eq!((hash(&member.list), member.list.lines()), (hash(&first.list), lines.clone()));
        // What it installed is what it begins with.
        let (dir, address) = member.stop().await;
        let again = Member::start_in(How::Open, 7, dir, &address).await.unwrap();
        again.until("all entries again", |_| again.list.lines().len() == lines.len()).await;
        assert_eq!(hash(&again.list), hash(&first.list));
        again.stop().await;
    }
    Arc::into_inner(first).expect("the writers are gone").stop().await;
}
