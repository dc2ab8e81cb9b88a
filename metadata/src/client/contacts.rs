//! Whom a client can ask: the members' addresses, their connections, and who leads.

use std::collections::{BTreeMap, BTreeSet};

use tonic::transport::Channel;
use torus_dial::Dial;

use super::attempt::Missed;
use crate::dial::channel;

/// The members that a client knows.
pub(super) struct Contacts {
    /// What the user gave: never forgotten.
    seeds: Vec<String>,
    /// What the members told.
    told: BTreeSet<String>,
    leader: Option<String>,
    channels: BTreeMap<String, Channel>,
    /// Turns the order, so that a member that does not answer is not always asked first.
    turn: usize,
    dial: Dial,
}

impl Contacts {
    pub(super) fn new(addresses: impl IntoIterator<Item = String>, dial: Dial) -> Self {
        let seeds: Vec<String> = addresses.into_iter().collect();
        let told = BTreeSet::new();
        Self { seeds, told, leader: None, channels: BTreeMap::new(), turn: 0, dial }
    }

    /// All addresses once: the leader first, then the others.
    pub(super) fn order(&self) -> Vec<String> {
        let others: BTreeSet<&String> = self.told.iter().chain(&self.seeds).collect();
        let mut order: Vec<String> = others.into_iter().cloned().collect();
        if !order.is_empty() {
            let turn = self.turn % order.len();
            order.rotate_left(turn);
        }
        if let Some(leader) = &self.leader {
            move_to_front(&mut order, leader);
        }
        order
    }

    /// All addresses once: `first`, then the others in their order.
    pub(super) fn order_from(&self, first: &str) -> Vec<String> {
        let mut order = self.order();
        move_to_front(&mut order, first);
        order
    }

    /// Another member comes first from now on.
    pub(super) fn turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    pub(super) fn set_leader(&mut self, address: &str) {
        self.leader = Some(address.to_owned());
    }

    /// `address` said that it does not lead.
    pub(super) fn no_leader(&mut self, address: &str) {
        if self.leader.as_deref() == Some(address) {
            self.leader = None;
        }
    }

    /// `address` did not answer.
    pub(super) fn lost(&mut self, address: &str) {
        self.no_leader(address);
        self.turn();
    }

    /// The members as one of them told; none is said by one that belongs to no cluster.
    pub(super) fn learn(&mut self, members: Vec<String>) {
        if members.is_empty() {
            return;
        }
        self.told = members.into_iter().collect();
        let (told, seeds) = (&self.told, &self.seeds);
        self.channels.retain(|address, _| told.contains(address) || seeds.contains(address));
    }

    /// The connection to `address`, which is made when it is used.
    pub(super) fn channel(&mut self, address: &str) -> Result<Channel, Missed> {
        if let Some(channel) = self.channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = channel(&self.dial, address).ok_or(Missed::Address)?;
        self.channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

fn move_to_front(order: &mut Vec<String>, address: &str) {
    order.retain(|other| other != address);
    order.insert(0, address.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_leader_comes_first_and_seeds_are_never_forgotten() {
        let mut contacts = Contacts::new(["b:1".to_owned(), "c:1".to_owned()], Dial::default());
        assert_eq!(contacts.order(), ["b:1", "c:1"]);
        contacts.learn(vec!["a:1".to_owned(), "b:1".to_owned()]);
        contacts.set_leader("b:1");
        assert_eq!(contacts.order(), ["b:1", "a:1", "c:1"]);
        assert_eq!(contacts.order_from("c:1"), ["c:1", "b:1", "a:1"]);
        contacts.lost("b:1");
        assert_eq!(contacts.order(), ["b:1", "c:1", "a:1"]);
        contacts.learn(Vec::new());
        contacts.learn(vec!["d:1".to_owned()]);
        assert_eq!(contacts.order(), ["c:1", "d:1", "b:1"]);
        assert!(contacts.channel("no address").is_err());
    }
}
