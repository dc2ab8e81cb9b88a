//! How a daemon gets into a cluster: waits, or asks members to take it in, or begins one.
//!
//! One task decides; `init` and `join` reach it as [`Order`]s.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use torus_raft::{Identity, RaftNode};

use super::core::Core;
use super::{MemberState, backup};
use crate::admin::{AdminClient, Applicant, Denied, InitOptions, Membership, Restored};
use crate::wire::Failure;
use crate::{
    AdminError, Backup, Command, Error, GlobalMetadata, MetadataService, NodeId, Refusal, Ring,
    RingVersion, block_size_is_valid,
};

/// How often the cluster is asked again.
const RETRY: Duration = Duration::from_millis(200);
/// How often after a refusal; somebody has to do something first.
const AFTER_REFUSAL: Duration = Duration::from_secs(2);

type Answer = oneshot::Sender<Result<Membership, Denied>>;

/// What an operator wants.
pub(super) enum Order {
    Init(InitOptions, Answer),
    /// Join the cluster of these members.
    Join(Vec<String>, Answer),
    /// Go on with the state of a backup.
    Restore(Box<Backup>, oneshot::Sender<Result<Restored, Denied>>),
}

pub(super) async fn run(core: Arc<Core>, mut orders: mpsc::Receiver<Order>) {
    let mut targets = core.targets();
    // Who waits to hear that it has joined.
    let mut askers: Vec<Answer> = Vec::new();
    loop {
        if core.node().is_some() {
            let Some(order) = orders.recv().await else { return };
            as_member(&core, order).await;
        } else if targets.is_empty() {
            let Some(order) = orders.recv().await else { return };
            match order {
                Order::Init(options, answer) => tell(answer, begin(&core, options).await),
                Order::Join(members, answer) => {
                    targets = members;
                    askers.push(answer);
                }
                Order::Restore(backup, answer) => {
                    tell(answer, backup::restore(&core, *backup).await);
                }
            }
        } else {
            core.set_state(MemberState::Joining { members: targets.clone() });
            let asked = tokio::select! {
                place = ask(&core, &targets) => Ok(place),
                order = orders.recv() => Err(order),
            };
            match asked {
                Ok(Asked::Place(place)) => {
                    // Not within the select: an identity that is half written must not be left.
                    let entered = enter(&core, place).await;
                    for asker in askers.drain(..) {
                        tell(asker, entered.clone());
                    }
                }
                Ok(Asked::NotYet) => tokio::time::sleep(RETRY).await,
                Ok(Asked::Refused(denied)) => {
                    let why = denied.clone().at(&targets.join(", "));
                    tracing::warn!(error = %why, "the cluster does not take this daemon in");
                    for asker in askers.drain(..) {
                        tell(asker, Err(denied.clone()));
                    }
                    targets = after_refusal(&core).await;
                }
                Err(None) => return,
                Err(Some(Order::Init(options, answer))) => {
                    let result = match nobody_began(&core, &targets).await {
                        true => begin(&core, options).await,
                        false => Err(Denied::Joining(targets.join(", "))),
                    };
                    tell(answer, result);
                }
                Err(Some(Order::Restore(backup, answer))) => {
                    let result = match nobody_began(&core, &targets).await {
                        true => backup::restore(&core, *backup).await,
                        false => Err(Denied::Joining(targets.join(", "))),
                    };
                    tell(answer, result);
                }
                Err(Some(Order::Join(members, answer))) => {
                    targets.extend(members);
                    targets.sort();
                    targets.dedup();
                    askers.push(answer);
                }
            }
        }
    }
}

/// Whether all of `targets` wait, too: then no cluster is overlooked.
async fn nobody_began(core: &Core, targets: &[String]) -> bool {
    for target in targets {
        let waits = Some(Err(Denied::Failure(Failure::NotInitialised)));
        if AdminClient::probe(&core.tuning.dial, target).await != waits {
            return false;
        }
    }
    true
}

/// Answers an order that comes when the daemon is a member.
async fn as_member(core: &Arc<Core>, order: Order) {
    let Some(node) = core.node() else { return };
    let cluster = core.cluster(&node);
    match order {
        // An interrupted `init` left the group without its first command.
        Order::Init(options, answer) if core.replica.read().state.global.is_none() => {
            tell(answer, format(core, options).await);
        }
        Order::Init(_, answer) | Order::Join(_, answer) => {
            tell(answer, Err(Denied::AlreadyMember(cluster)));
        }
        Order::Restore(_, answer) => tell(answer, Err(Denied::AlreadyMember(cluster))),
    }
}

/// Begins a cluster of this daemon alone.
async fn begin(core: &Arc<Core>, options: InitOptions) -> Result<Membership, Denied> {
    if !block_size_is_valid(options.block_size) {
        return Err(Denied::Refused(Refusal::BLOCK_SIZE));
    }
    crate::state::validate_ring(&first_ring(&options)).map_err(Denied::Refused)?;
    if let Some(voters_max) = options.voters_max {
        crate::state::validate_voters_max(voters_max).map_err(Denied::Refused)?;
    }
    let cluster = uuid::Uuid::new_v4();
    let node = RaftNode::bootstrap(core.raft_options(), *cluster.as_bytes(), core.machine()).await;
    core.install(node.map_err(|err| fail(core, err))?);
    let formatted = format(core, options).await;
    core.run();
    formatted
}

/// Gives the group its first command.
async fn format(core: &Arc<Core>, options: InitOptions) -> Result<Membership, Denied> {
    let node = core.member()?;
    let cluster = core.cluster(&node);
    let ring = first_ring(&options);
    let InitOptions { block_size, block_spec, voters_max, .. } = options;
    // First, so that a repetition of an interrupted `init` comes by here again.
    if let Some(voters_max) = voters_max {
        match core.client().execute(Command::SetVotersMax(voters_max)).await {
            Ok(_) => {}
            Err(Error::Refused(refusal)) => return Err(Denied::Refused(refusal)),
            Err(err) => return Err(unformatted(&err)),
        }
    }
    let global = GlobalMetadata { cluster, block_size, block_spec };
    match core.client().execute(Command::Init { global, ring }).await {
        Ok(_) => Ok(core.place(&node, NodeId(node.identity().node))),
        Err(Error::Refused(refusal)) => Err(Denied::Refused(refusal)),
        Err(err) => Err(unformatted(&err)),
    }
}

fn unformatted(err: &Error) -> Denied {
    tracing::warn!(error = %err, "the cluster was begun but not formatted");
    Failure::Unavailable.into()
}

fn first_ring(options: &InitOptions) -> Ring {
    Ring {
        version: RingVersion(1),
        kind: options.ring,
        replication: options.replication,
        members: Vec::new(),
    }
}

/// What came of asking for a place.
enum Asked {
    Place(Membership),
    /// Nobody could say; later somebody may.
    NotYet,
    /// The cluster does not want this daemon as it is.
    Refused(Denied),
}

/// Asks the cluster for a place, once.
async fn ask(core: &Core, targets: &[String]) -> Asked {
    let (peer, level) = (core.options.peer, core.tuning.level);
    let applicant = Applicant { peer, address: core.options.address.clone(), level };
    let cluster = AdminClient::over(core.tuning.dial.clone(), targets.iter().cloned());
    match cluster.join(applicant).await {
        Ok(Ok(place)) => Asked::Place(place),
        Ok(Err(denied)) if is_final(&denied) => Asked::Refused(denied),
        Ok(Err(denied)) => {
            tracing::debug!(?denied, "not taken in yet");
            Asked::NotYet
        }
        Err(err @ (AdminError::Unavailable { .. } | AdminError::NotInitialised { .. })) => {
            tracing::debug!(error = %err, "nobody takes this daemon in yet");
            Asked::NotYet
        }
        Err(err) => {
            tracing::warn!(error = %err, "the cluster does not take this daemon in");
            tokio::time::sleep(AFTER_REFUSAL).await;
            Asked::NotYet
        }
    }
}

/// Whether the same question would get the same answer, until somebody does something.
fn is_final(denied: &Denied) -> bool {
    matches!(
        denied,
        Denied::AddressTaken(_)
            | Denied::AlreadyMember(_)
            | Denied::Level { .. }
            | Denied::OtherCluster(_)
            | Denied::Refused(_)
    )
}

/// Whom to ask next: an invitation has come to nothing, but what `--join` says stands.
async fn after_refusal(core: &Core) -> Vec<String> {
    let targets = core.targets();
    if targets.is_empty() {
        core.set_state(MemberState::WaitingForInit);
    } else {
        tokio::time::sleep(AFTER_REFUSAL).await;
    }
    targets
}

/// Starts the node at the place that the cluster gave.
async fn enter(core: &Arc<Core>, place: Membership) -> Result<Membership, Denied> {
    let [cluster, group] = [place.cluster, place.group].map(|name| *name.as_bytes());
    let identity = Identity { cluster, group, node: place.node.0 };
    let node = RaftNode::join(core.raft_options(), identity, core.machine()).await;
    core.install(node.map_err(|err| fail(core, err))?);
    core.run();
    Ok(place)
}

/// Nothing can be done here without a log.
pub(super) fn fail(core: &Core, err: torus_raft::Error) -> Denied {
    tracing::error!(error = %err, "the metadata member cannot be started");
    core.set_state(MemberState::Failed(Arc::new(err)));
    Failure::Unavailable.into()
}

fn tell<T>(answer: oneshot::Sender<Result<T, Denied>>, result: Result<T, Denied>) {
    // Whoever asked may have gone; the result stands all the same.
    drop(answer.send(result));
}
