//! The bytes of a log entry and of the state machine's answer to it.

use prost::Message;

use super::proto::proposal::{self, Kind};
use super::{Malformed, proto, required};
use crate::machine::{Proposal, RequestId, Tenure};
use crate::{FeatureLevel, Response, SessionId};

impl From<RequestId> for proto::RequestId {
    fn from(request: RequestId) -> Self {
        Self { client: request.client.to_be_bytes().to_vec(), sequence: request.sequence }
    }
}

impl TryFrom<proto::RequestId> for RequestId {
    type Error = Malformed;

    fn try_from(request: proto::RequestId) -> Result<Self, Malformed> {
        let client =
            request.client.try_into().map_err(|_| Malformed { what: "a client's name" })?;
        Ok(Self { client: u128::from_be_bytes(client), sequence: request.sequence })
    }
}

pub(crate) fn encode_proposal(proposal: Proposal) -> Vec<u8> {
    let kind = match proposal {
        Proposal::Command { request, command } => Kind::Command(proposal::Request {
            request: Some(request.into()),
            command: Some(command.into()),
        }),
        Proposal::BeginTenure(tenure) => Kind::BeginTenure(tenure.0),
        Proposal::RaiseLevel(level) => Kind::RaiseLevel(level.0),
        Proposal::Expire { tenure, sessions } => {
            let sessions = sessions.into_iter().map(|session| session.0).collect();
            Kind::Expire(proposal::Expire { tenure: tenure.0, sessions })
        }
    };
    proto::Proposal { kind: Some(kind) }.encode_to_vec()
}

pub(crate) fn decode_proposal(bytes: &[u8]) -> Result<Proposal, Malformed> {
    let what = "a log entry";
    let proposal = proto::Proposal::decode(bytes).map_err(|_| Malformed { what })?;
    Ok(match required(proposal.kind, what)? {
        Kind::Command(proposal::Request { request, command }) => Proposal::Command {
            request: required(request, what)?.try_into()?,
            command: required(command, what)?.try_into()?,
        },
        Kind::BeginTenure(tenure) => Proposal::BeginTenure(Tenure(tenure)),
        // Later entries may be such as this version does not know.
        Kind::RaiseLevel(level) if level > FeatureLevel::OWN.0 => return Err(Malformed { what }),
        Kind::RaiseLevel(level) => Proposal::RaiseLevel(FeatureLevel(level)),
        Kind::Expire(expire) => Proposal::Expire {
            tenure: Tenure(expire.tenure),
            sessions: expire.sessions.into_iter().map(SessionId).collect(),
        },
    })
}

pub(crate) fn encode_response(response: Response) -> Vec<u8> {
    proto::Response::from(response).encode_to_vec()
}

pub(crate) fn decode_response(bytes: &[u8]) -> Result<Response, Malformed> {
    let response =
        proto::Response::decode(bytes).map_err(|_| Malformed { what: "a log entry's answer" })?;
    response.try_into()
}
