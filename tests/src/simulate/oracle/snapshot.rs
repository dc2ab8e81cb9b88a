//! What a snapshot may hold: the volume as it was at a moment between the wish for it and the answer,
//! and the same for ever after.

use std::sync::{Arc, Mutex};

use super::super::node::lock;
use super::Life;

/// A snapshot that its taker was told of; clones are of the same one.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    life: Arc<Mutex<Life>>,
    /// It holds at least so many effects of that life,
    from: usize,
    /// and at most so many.
    to: usize,
    /// What the first reader found, which is what it holds for ever.
    content: Arc<Mutex<Option<Vec<u64>>>>,
}

impl Snapshot {
    pub(crate) fn new(name: String, life: &Arc<Mutex<Life>>, from: usize) -> Self {
        let to = lock(life).effects.len();
        Self { name, life: Arc::clone(life), from, to, content: Arc::default() }
    }

    pub(super) fn is_of(&self, life: &Arc<Mutex<Life>>) -> bool {
        Arc::ptr_eq(&self.life, life)
    }

    pub(crate) fn content(&self) -> Option<Vec<u64>> {
        lock(&self.content).clone()
    }

    /// Whether it may hold what was found.
    pub(crate) fn can_be(&self, found: &[u64]) -> bool {
        match &*lock(&self.content) {
            Some(content) => content == found,
            None => lock(&self.life).was(self.from..self.to, found),
        }
    }

    /// Whether `other`, which is to be of the same instant, holds a write that was sent after one was
    /// acknowledged which this one lacks. Nothing as long as one of them was not read.
    pub(crate) fn lacks_a_cause_of(&self, other: &Self) -> Option<bool> {
        let ((_, most), (least, _)) = (self.counts()?, other.counts()?);
        let Some(last) = least.checked_sub(1) else { return Some(false) };
        let sent = lock(&other.life).effects[last].issued;
        Some(lock(&self.life).accepted_before(sent) > most)
    }

    fn counts(&self) -> Option<(usize, usize)> {
        let content = self.content()?;
        lock(&self.life).counts(self.from..self.to, &content)
    }

    /// Holds what a reader found against what it must hold.
    pub(crate) fn check(&self, found: Vec<u64>) -> Result<(), String> {
        let is_right = self.can_be(&found);
        let mut content = lock(&self.content);
        if !is_right {
            let before = if content.is_some() { "what it was" } else { "any moment of it" };
            return Err(format!("snapshot {:?} is not {before}", self.name));
        }
        *content = Some(found);
        Ok(())
    }
}
