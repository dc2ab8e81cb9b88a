//! What the metadata service promises of one object: the state, and which answers it allows.
//!
//! Pure. An object is a register (the size of a volume), a counter (its INode indexes), the ring
//! (changed by compare-and-swap) or a lock with its epochs and the value that they guard.

/// What a client asked of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Read,
    /// Of a register.
    Write(u64),
    /// Reserves so many numbers of a counter.
    Add(u64),
    /// Puts `weight` into the ring in place of version `version - 1`.
    Swap {
        version: u64,
        weight: u64,
    },
    Lock {
        session: u64,
    },
    Unlock {
        epoch: u64,
    },
    WriteUnder {
        epoch: u64,
        value: u64,
    },
    /// The end of a session, which frees its lock. The service decides on it by itself at any time
    /// from the call on, or never.
    End {
        session: u64,
    },
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Done,
    /// Of a register or a counter.
    Value(u64),
    /// The first number that was reserved.
    First(u64),
    Ring {
        version: u64,
        weight: u64,
    },
    /// The swap was refused: this version is the present one.
    RingIsAt(u64),
    Granted {
        epoch: u64,
    },
    HeldBy {
        session: u64,
    },
    NoSession,
    Stale {
        current: u64,
    },
    Lock(LockState),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LockState {
    pub(super) epoch: u64,
    pub(super) holder: Option<u64>,
    pub(super) value: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    Register(u64),
    Counter(u64),
    Ring { version: u64, weight: u64 },
    Lock(LockState),
}

impl State {
    /// The state behind an operation with this answer, if the answer may be given here. Without an
    /// answer: the state behind it if it has an effect here, for without one it need not be placed.
    pub(super) fn step(&self, input: &Input, output: Option<&Output>) -> Option<State> {
        match self {
            Self::Register(value) => register(*value, input, output).map(Self::Register),
            Self::Counter(value) => counter(*value, input, output).map(Self::Counter),
            Self::Ring { version, weight } => {
                let (version, weight) = ring(*version, *weight, input, output)?;
                Some(Self::Ring { version, weight })
            }
            Self::Lock(lock) => {
                let next = lock_step(lock, input, output)?;
                (output.is_some() || next != *lock).then_some(Self::Lock(next))
            }
        }
    }
}

fn register(value: u64, input: &Input, output: Option<&Output>) -> Option<u64> {
    match (input, output) {
        (Input::Read, Some(Output::Value(seen))) => (*seen == value).then_some(value),
        (Input::Write(new), Some(Output::Done) | None) => Some(*new),
        _ => None,
    }
}

fn counter(value: u64, input: &Input, output: Option<&Output>) -> Option<u64> {
    match (input, output) {
        (Input::Read, Some(Output::Value(seen))) => (*seen == value).then_some(value),
        (Input::Add(count), Some(Output::First(first))) => {
            (*first == value + 1).then_some(value + count)
        }
        (Input::Add(count), None) => Some(value + count),
        _ => None,
    }
}

fn ring(version: u64, weight: u64, input: &Input, output: Option<&Output>) -> Option<(u64, u64)> {
    match (input, output) {
        (Input::Read, Some(seen)) => {
            (*seen == Output::Ring { version, weight }).then_some((version, weight))
        }
        (Input::Swap { version: new, weight: put }, Some(Output::Done) | None) => {
            (*new == version + 1).then_some((*new, *put))
        }
        (Input::Swap { version: new, .. }, Some(Output::RingIsAt(current))) => {
            (*current == version && *new != version + 1).then_some((version, weight))
        }
        _ => None,
    }
}

fn lock_step(lock: &LockState, input: &Input, output: Option<&Output>) -> Option<LockState> {
    let same = || lock.clone();
    let is_free_for = |session| lock.holder.is_none_or(|holder| holder == session);
    let stale = |epoch: &u64, current: &u64| *current == lock.epoch && *epoch != lock.epoch;
    match (input, output) {
        (Input::Read, Some(Output::Lock(seen))) => (seen == lock).then(same),
        (Input::Lock { session }, Some(Output::Granted { epoch })) => {
            let granted = is_free_for(*session) && *epoch == lock.epoch + 1;
            granted.then(|| LockState { epoch: *epoch, holder: Some(*session), ..same() })
        }
        (Input::Lock { session }, None) => is_free_for(*session).then(|| LockState {
            epoch: lock.epoch + 1,
            holder: Some(*session),
            ..same()
        }),
        (Input::Lock { session }, Some(Output::HeldBy { session: holder })) => {
            (lock.holder == Some(*holder) && holder != session).then(same)
        }
        (Input::Lock { session }, Some(Output::NoSession)) => {
            (lock.holder != Some(*session)).then(same)
        }
        (Input::Unlock { epoch }, Some(Output::Done) | None) => {
            (*epoch == lock.epoch).then(|| LockState { holder: None, ..same() })
        }
        (Input::WriteUnder { epoch, value }, Some(Output::Done) | None) => {
            (*epoch == lock.epoch).then(|| LockState { value: *value, ..same() })
        }
        (
            Input::Unlock { epoch } | Input::WriteUnder { epoch, .. },
            Some(Output::Stale { current }),
        ) => stale(epoch, current).then(same),
        (Input::End { session }, Some(Output::Done) | None) => {
            let holder = lock.holder.filter(|holder| holder != session);
            Some(LockState { holder, ..same() })
        }
        _ => None,
    }
}
