//! One writer at a time.

use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, Stopwatch, wait_until};

/// Within it a volume can be opened after its opener was killed: its session ends.
const SESSION_BOUND: Duration = Duration::from_secs(30);

#[test]
fn a_second_opener_is_told_who_has_the_volume_and_gets_it_when_the_first_has_died() {
    let mut cluster = Cluster::start(&ClusterOptions::default());
    cluster.create_volume("disk", "64MiB");
    let mut first = cluster.serve("disk");
    let mut client = first.connect().unwrap();
    client.write(0, &[1; 4096]).unwrap();
    client.flush().unwrap();

    let refused = cluster.try_serve("disk").expect_err("the volume has an opener");
    assert_eq!(refused.code, 1, "{refused}");
    assert!(refused.stderr.contains("in use by"), "{refused}");
    client.flush().expect("the first opener has noticed nothing");

    first.kill9();
    let watch = Stopwatch::start();
    let second =
        wait_until("the volume can be opened", SESSION_BOUND, || cluster.try_serve("disk"));
    println!("opened {:.1?} after the death of the first opener", watch.elapsed());
    assert_eq!(second.connect().unwrap().read(0, 4096).unwrap(), [1; 4096]);
}

#[test]
fn a_writer_that_was_out_for_too_long_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::start(&ClusterOptions::default());
    cluster.create_volume("disk", "64MiB");
    let stale = cluster.serve("disk");
    let mut old = stale.connect().unwrap();
    old.write(0, &[1; 4096]).unwrap();
    old.flush().unwrap();

    stale.pause();
    let fresh = wait_until("the volume can be opened", SESSION_BOUND, || cluster.try_serve("disk"));
    let mut new = fresh.connect().unwrap();
    new.write(4096, &[2; 4096]).unwrap();
    new.flush().unwrap();

    stale.resume();
    let written = old.write(0, &[3; 4096]).and_then(|()| old.flush());
    assert!(written.is_err(), "a stale writer flushed");
    assert_eq!(new.read(0, 4096).unwrap(), [1; 4096]);
    drop(new);
    fresh.stop();
    let again = cluster.serve("disk");
    let mut new = again.connect().unwrap();
    assert_eq!(new.read(0, 4096).unwrap(), [1; 4096]);
    assert_eq!(new.read(4096, 4096).unwrap(), [2; 4096]);
}
