//! Random processes are killed, again and again, under clients that write, trim, flush and take
//! snapshots and clones.
//!
//! Each round begins with servers of all volumes, changes something, kills some of the daemons and
//! clients, or all, and then looks: every volume is a prefix of what was written that holds all that
//! was flushed, every snapshot shows the moment in which it was taken, for as long as it exists.
//! `TORUS_TEST_ROUNDS` says how many rounds, `TORUS_TEST_SEED` which.

mod world;

use std::env;

use torus_tests::Random;

use world::World;

const ROUNDS: u32 = 8;

#[test]
fn whatever_is_killed_no_flushed_write_is_lost_and_snapshots_stay_as_they_are() {
    let wanted = env::var("TORUS_TEST_ROUNDS").ok();
    let rounds = wanted.map_or(ROUNDS, |text| text.parse().expect("TORUS_TEST_ROUNDS is a number"));
    let mut world = World::new(Random::seeded(21));
    for round in 1..=rounds {
        let did = world.round();
        println!("round {round}: {did}; {}", world.summary());
    }
    println!("{rounds} rounds: {}", world.summary());
    world.end();
}
