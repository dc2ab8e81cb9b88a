//! Revisions against real time: what was answered before another request was sent has no newer
//! revision than that one's answer. So a stale read shows, of whatever object.
//!
//! Pure.

/// An answer that named a revision; times in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) call: u64,
    pub(super) answered: u64,
    pub(super) revision: u64,
    /// The revision is the operation's own.
    pub(super) is_change: bool,
}

/// Two answers that contradict real time, or two changes with one revision.
pub(super) fn check(stamps: &[Stamp]) -> Result<(), String> {
    let mut by_call = stamps.to_vec();
    by_call.sort_by_key(|stamp| stamp.call);
    let mut by_answer = stamps.to_vec();
    by_answer.sort_by_key(|stamp| stamp.answered);
    let mut earlier = by_answer.into_iter().peekable();
    let mut newest: Option<Stamp> = None;
    for stamp in &by_call {
        while let Some(before) = earlier.next_if(|before| before.answered < stamp.call) {
            if newest.is_none_or(|newest| newest.revision < before.revision) {
                newest = Some(before);
            }
        }
        let least = newest.map_or(0, |newest| newest.revision + u64::from(stamp.is_change));
        if stamp.revision < least {
            return Err(format!("{stamp:?} came after {newest:?} was answered"));
        }
    }
    let mut changes: Vec<&Stamp> = by_call.iter().filter(|stamp| stamp.is_change).collect();
    changes.sort_by_key(|stamp| stamp.revision);
    let same = changes.windows(2).find(|pair| pair[0].revision == pair[1].revision);
    same.map_or(Ok(()), |pair| Err(format!("two changes have one revision: {pair:?}")))
}
