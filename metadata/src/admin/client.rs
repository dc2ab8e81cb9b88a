//! Asks daemons to form or change the group.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;
use torus_dial::Dial;

use super::{AdminError, Applicant, Denied, GroupStatus, InitOptions, Initialised, Membership};
use crate::dial::channel;
use crate::error::call_failed;
use crate::wire::proto::admin_client::AdminClient as Stub;
use crate::wire::{Failure, Malformed, proto};
use crate::{NodeId, Refusal};

/// How long a call goes on looking for the leader.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long one daemon may take; a change of the voters needs some rounds of the group.
const ATTEMPT: Duration = Duration::from_secs(20);
/// How long `init` may take: thrice 15 s on the daemon's side, for its peers, its voters and its turn.
const INIT_ATTEMPT: Duration = Duration::from_secs(60);
/// How long one daemon may take to say how it is.
const STATUS_ATTEMPT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// A client of the daemons' administration.
#[derive(Clone, Debug)]
pub struct AdminClient {
    pub(super) addresses: Vec<String>,
    pub(super) dial: Dial,
}

impl AdminClient {
    /// A client that knows the daemons at these addresses, each `HOST:PORT`.
    pub fn new(addresses: impl IntoIterator<Item = String>) -> Self {
        Self::over(Dial::default(), addresses)
    }

    /// As [`new`](Self::new), over connections of another kind.
    pub fn over(dial: Dial, addresses: impl IntoIterator<Item = String>) -> Self {
        Self { addresses: addresses.into_iter().collect(), dial }
    }

    /// As [`new`](Self::new), from a comma-separated list.
    pub fn parse(addresses: &str) -> Self {
        let parts = addresses.split(',').map(str::trim).filter(|part| !part.is_empty());
        Self::new(parts.map(str::to_owned))
    }

    /// Begins a cluster on the first of the daemons that answers. Returns when the daemons that
    /// were waiting to join it are in, or after 15 s.
    pub async fn init(&self, options: InitOptions) -> Result<Initialised, AdminError> {
        let (address, is_member) = match self.find_first().await? {
            // Another must not begin beside it. It is asked all the same: an `init` that was
            // interrupted is finished there.
            First::Member(address, _) => (address, true),
            First::Waits(address) => (address, false),
        };
        match init_at(&self.dial, address, options).await {
            Ok(Err(Denied::AlreadyMember(_))) => Err(Refusal::AlreadyInitialised.into()),
            Ok(result) => result.map_err(|denied| denied.at(address)),
            Err(_) if is_member => Err(Refusal::AlreadyInitialised.into()),
            Err(missed) => Err(missed.outcome_unknown(address)),
        }
    }

    /// A daemon that is in a cluster, or else the first that waits for one. Only one is asked to begin
    /// anything: if it is silent then, nobody knows what it did.
    pub(super) async fn find_first(&self) -> Result<First<'_>, AdminError> {
        let mut silent = Silent::default();
        let (mut waits, mut denied) = (None, None);
        for address in &self.addresses {
            match status_of(&self.dial, address).await {
                Ok(Ok(status)) => return Ok(First::Member(address, Box::new(status))),
                Ok(Err(Denied::Failure(Failure::NotInitialised))) => {
                    waits.get_or_insert(address);
                }
                Ok(Err(said)) => denied = Some(said.at(address)),
                Err(missed) => silent.note(address, missed)?,
            }
        }
        match waits {
            Some(address) => Ok(First::Waits(address)),
            None => Err(denied.unwrap_or_else(|| silent.error())),
        }
    }

    /// The group as its leader sees it, or else as a member does that answers.
    pub async fn status(&self) -> Result<GroupStatus, AdminError> {
        let mut silent = Silent::default();
        let mut denied = None;
        for address in &self.addresses {
            match status_of(&self.dial, address).await {
                Ok(Ok(status)) => {
                    let leader = status.leader().filter(|leader| leader.node != status.node);
                    if let Some(leader) = leader
                        && let Ok(Ok(better)) = status_of(&self.dial, &leader.address).await
                    {
                        return Ok(better);
                    }
                    return Ok(status);
                }
                Ok(Err(said)) => denied = Some(said.at(address)),
                Err(missed) => silent.note(address, missed)?,
            }
        }
        Err(denied.unwrap_or_else(|| silent.error()))
    }

    /// Has the daemon at `address`, which waits, join the cluster.
    pub async fn invite(&self, address: &str) -> Result<Membership, AdminError> {
        self.lead(Request::Invite(address.to_owned())).await
    }

    /// Removes a member from the group. The daemon itself should be stopped afterwards.
    pub async fn remove_member(&self, node: NodeId) -> Result<(), AdminError> {
        self.lead(Request::Remove(node)).await.map(|_| ())
    }

    /// Hands the leadership to a voter, to the best placed one if none is named; returns who
    /// leads then.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<Membership, AdminError> {
        self.lead(Request::Transfer(to)).await
    }

    /// Gives a learner a vote; `instead_of` gives up its own. Repeating it finishes a change that
    /// was interrupted.
    pub async fn promote(
        &self,
        node: NodeId,
        instead_of: Option<NodeId>,
    ) -> Result<Membership, AdminError> {
        self.lead(Request::Promote(node, instead_of)).await
    }

    /// What the one daemon at `address` knows of the group; nobody else is asked.
    pub async fn own_status(address: &str) -> Result<GroupStatus, AdminError> {
        let mut silent = Silent::default();
        match status_of(&Dial::default(), address).await {
            Ok(answer) => answer.map_err(|denied| denied.at(address)),
            Err(missed) => {
                silent.note(address, missed)?;
                Err(silent.error())
            }
        }
    }

    /// Asks for a place in the group: what its leader says, if there is one.
    pub(crate) async fn join(
        &self,
        applicant: Applicant,
    ) -> Result<Result<Membership, Denied>, AdminError> {
        Ok(self.ask_leader(Request::Join(applicant)).await?.1)
    }

    /// Asks one daemon to join the cluster of `members`. `None`: it does not answer.
    pub(crate) async fn join_cluster(
        dial: &Dial,
        address: &str,
        members: Vec<String>,
    ) -> Option<Result<Membership, Denied>> {
        send(dial, address, &Request::JoinCluster(members)).await.ok()
    }

    /// How one daemon is; `None` if it does not answer.
    pub(crate) async fn probe(dial: &Dial, address: &str) -> Option<Result<GroupStatus, Denied>> {
        status_of(dial, address).await.ok()
    }

    async fn lead(&self, request: Request) -> Result<Membership, AdminError> {
        let (address, answer) = self.ask_leader(request).await?;
        answer.map_err(|denied| denied.at(&address))
    }

    /// Asks the daemons, and whom they name, until the leader has answered: where it is, and what it
    /// says.
    async fn ask_leader(
        &self,
        request: Request,
    ) -> Result<(String, Result<Membership, Denied>), AdminError> {
        let end = now() + DEADLINE;
        loop {
            let mut silent = Silent::default();
            let mut uninitialised = None;
            let mut asked = BTreeSet::new();
            let mut queue: Vec<String> = self.addresses.iter().rev().cloned().collect();
            while let Some(address) = queue.pop() {
                if !asked.insert(address.clone()) {
                    continue;
                }
                match send(&self.dial, &address, &request).await {
                    Ok(Err(Denied::Failure(Failure::NotLeader { leader }))) => {
                        silent.tried.push(address);
                        silent.leaderless = true;
                        queue.extend(leader);
                    }
                    Ok(Err(Denied::Failure(Failure::NotInitialised))) => {
                        uninitialised = Some(address);
                    }
                    Ok(Err(Denied::Failure(Failure::Unavailable))) => {
                        silent.tried.push(address);
                        silent.leaderless = true;
                    }
                    Ok(answer) => return Ok((address, answer)),
                    Err(missed) => silent.note(&address, missed)?,
                }
            }
            match uninitialised {
                Some(address) if !silent.leaderless => {
                    return Err(AdminError::NotInitialised { address });
                }
                // Where nobody can be reached the user learns it at once; an election is waited for.
                _ if !silent.leaderless || now() >= end => return Err(silent.error()),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// A request that is the leader's to carry out, or whose answer is a place in the group.
enum Request {
    Join(Applicant),
    Invite(String),
    JoinCluster(Vec<String>),
    Remove(NodeId),
    Transfer(Option<NodeId>),
    Promote(NodeId, Option<NodeId>),
}

/// Where something may begin.
pub(super) enum First<'a> {
    /// Nowhere: this daemon is in a cluster.
    Member(&'a str, Box<GroupStatus>),
    Waits(&'a str),
}

/// Why a daemon gave no answer.
pub(super) enum Missed {
    Status(Box<Status>),
    Timeout,
    Malformed(Malformed),
    Address,
}

impl Missed {
    /// The error after a request that may have been carried out.
    pub(super) fn outcome_unknown(self, address: &str) -> AdminError {
        let source = match self {
            Self::Status(status) => Some(call_failed(*status)),
            Self::Timeout | Self::Malformed(_) | Self::Address => None,
        };
        AdminError::OutcomeUnknown { address: address.to_owned(), source }
    }
}

impl From<Status> for Missed {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<Malformed> for Missed {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// The daemons that gave no answer.
#[derive(Default)]
pub(super) struct Silent {
    pub(super) tried: Vec<String>,
    source: Option<Status>,
    /// A member answered, but nobody leads.
    leaderless: bool,
}

impl Silent {
    pub(super) fn note(&mut self, address: &str, missed: Missed) -> Result<(), AdminError> {
        match missed {
            Missed::Status(status) => self.source = Some(*status),
            Missed::Timeout => {}
            Missed::Malformed(malformed) => {
                return Err(AdminError::Protocol { what: malformed.what });
            }
            Missed::Address => {
                return Err(AdminError::Protocol { what: "the address of a daemon" });
            }
        }
        self.tried.push(address.to_owned());
        Ok(())
    }

    pub(super) fn error(self) -> AdminError {
        let source = self.source.map(call_failed);
        AdminError::Unavailable { tried: self.tried.join(", "), source }
    }
}

async fn init_at(
    dial: &Dial,
    address: &str,
    options: InitOptions,
) -> Result<Result<Initialised, Denied>, Missed> {
    let mut stub = stub(dial, address)?;
    let reply = within(INIT_ATTEMPT, stub.init(proto::InitRequest::from(options))).await?;
    Ok(reply.try_into()?)
}

pub(super) async fn status_of(
    dial: &Dial,
    address: &str,
) -> Result<Result<GroupStatus, Denied>, Missed> {
    let mut stub = stub(dial, address)?;
    let reply = within(STATUS_ATTEMPT, stub.status(proto::Nothing {})).await?;
    Ok(reply.try_into()?)
}

async fn send(
    dial: &Dial,
    address: &str,
    request: &Request,
) -> Result<Result<Membership, Denied>, Missed> {
    let mut stub = stub(dial, address)?;
    let reply = match request {
        Request::Join(applicant) => {
            within(ATTEMPT, stub.join(proto::JoinRequest::from(applicant.clone()))).await?
        }
        Request::Invite(address) => {
            let request = proto::InviteRequest { address: address.clone() };
            within(ATTEMPT, stub.invite(request)).await?
        }
        Request::JoinCluster(members) => {
            let request = proto::JoinClusterRequest { members: members.clone() };
            within(ATTEMPT, stub.join_cluster(request)).await?
        }
        Request::Remove(node) => {
            let request = proto::RemoveMemberRequest { node: node.0 };
            within(ATTEMPT, stub.remove_member(request)).await?
        }
        Request::Transfer(to) => {
            let request = proto::TransferLeaderRequest { node: to.map(|node| node.0) };
            within(ATTEMPT, stub.transfer_leader(request)).await?
        }
        Request::Promote(node, instead_of) => {
            let instead_of = instead_of.map(|node| node.0);
            let request = proto::PromoteRequest { node: node.0, instead_of };
            within(ATTEMPT, stub.promote(request)).await?
        }
    };
    Ok(reply.try_into()?)
}

pub(super) async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Missed> {
    match tokio::time::timeout(patience, call).await {
        Ok(reply) => Ok(reply?.into_inner()),
        Err(_) => Err(Missed::Timeout),
    }
}

pub(super) fn stub(dial: &Dial, address: &str) -> Result<Stub<Channel>, Missed> {
    Ok(Stub::new(channel(dial, address).ok_or(Missed::Address)?))
}

fn now() -> Instant {
    Instant::now()
}
