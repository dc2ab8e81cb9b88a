//! As much of a client of etcd as its load needs: its gRPC calls, with the few fields that count.
//!
//! The numbers of the fields are those of etcd's `rpc.proto`, version 3.4.

use std::time::Duration;

use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a value: about what a volume's record takes.
const VALUE_SIZE: usize = 64;

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

/// Linearizable, as `serializable` (7) is not set.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    pairs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member: u64,
}

/// A connection to one member.
#[derive(Clone)]
pub(crate) struct Etcd(tonic::client::Grpc<Channel>);

impl Etcd {
    pub(crate) fn new(address: &str) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect_lazy();
        Ok(Self(tonic::client::Grpc::new(channel)))
    }

    /// Writes `number`, in a value of [`VALUE_SIZE`] bytes.
    pub(crate) async fn put(&self, key: &str, number: u64) -> Result<(), Failure> {
        let mut value = vec![0; VALUE_SIZE];
        value[..8].copy_from_slice(&number.to_le_bytes());
        let request = PutRequest { key: key.into(), value };
        let _: PutResponse = self.call("/etcdserverpb.KV/Put", request).await?;
        Ok(())
    }

    pub(crate) async fn get(&self, key: &str) -> Result<u64, Failure> {
        let request = RangeRequest { key: key.into() };
        let found: RangeResponse = self.call("/etcdserverpb.KV/Range", request).await?;
        let value = found.pairs.first().and_then(|pair| pair.value.first_chunk());
        Ok(u64::from_le_bytes(*value.ok_or("the key is not there")?))
    }

    /// Whether the member leads.
    pub(crate) async fn leads(&self) -> Result<bool, Failure> {
        let path = "/etcdserverpb.Maintenance/Status";
        let status: StatusResponse = self.call(path, StatusRequest {}).await?;
        Ok(status.header.is_some_and(|header| header.member == status.leader))
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Failure>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.0.clone();
        grpc.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        Ok(grpc.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }
}
