//! The client against the `temp` service, over gRPC on loopback.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;

use super::Client;
use crate::fixtures;
use crate::machine::RequestId;
use crate::serve::{Backend, Freshness};
use crate::wire::{Failure, KeptAlive};
use crate::{
    Answer, Command, Error, Event, EventKind, Followed, MetadataService, Outcome, Query, Refusal,
    Response, Revision, SessionId, TempService, WatchItem, follow,
};

struct Server {
    address: String,
    service: TempService,
    _task: AbortOnDropHandle<()>,
}

async fn serve(service: TempService) -> Server {
    let (address, task) = serve_routes(|address| service.routes(address)).await;
    Server { address, service, _task: task }
}

async fn serve_routes(
    routes: impl FnOnce(&str) -> tonic::service::Routes,
) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = routes(&address);
    let task = tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_routes(routes);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    (address, AbortOnDropHandle::new(task))
}

/// A member that can be watched, but keeps no changes up to this revision.
struct Forgetful(Revision);

impl Backend for Forgetful {
    fn execute(&self, _: RequestId, _: Command) -> BoxFuture<'_, Result<Response, Failure>> {
        future::ready(Err(Failure::Unavailable)).boxed()
    }

    fn query(&self, _: Query, _: Freshness) -> BoxFuture<'_, Result<Answer, Failure>> {
        future::ready(Err(Failure::Unavailable)).boxed()
    }

    fn keep_alive(&self, _: SessionId) -> BoxFuture<'_, Result<KeptAlive, Failure>> {
        future::ready(Err(Failure::Unavailable)).boxed()
    }

    fn watch(
        &self,
        from: Option<Revision>,
        _: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>> {
        let compacted = self.0;
        let item = match from {
            Some(from) if from < compacted => Err(Error::Compacted { compacted }),
            _ => Ok(WatchItem::Progress(Revision(9))),
        };
        stream::iter([item]).chain(stream::pending()).boxed()
    }
}

/// An address at which nobody listens.
async fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

fn open_session() -> Command {
    Command::OpenSession { owner: "host".to_owned(), ttl_ms: 1000 }
}

#[tokio::test]
async fn commands_queries_and_keep_alives_go_over_the_wire() {
    let server = serve(TempService::new()).await;
    let client = Client::parse(&format!("{}, {}", nobody().await, server.address));
    let refused = client.execute(open_session()).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::NotInitialised)));
    client.execute(fixtures::init()).await.unwrap();
    let applied = client.execute(open_session()).await.unwrap();
    let Outcome::Session(session) = applied.outcome else { panic!("{applied:?}") };
    client.keep_alive(session).await.unwrap();
    let expire = Command::ExpireSessions(vec![session]);
    let refused = client.execute(expire).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::Invalid { .. })), "{refused}");
    server.service.expire(session);
    let refused = client.keep_alive(session).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::NoSuchSession)));
    let answer = client.query(Query::Sessions).await.unwrap();
    assert_eq!(answer, Answer::Sessions { sessions: Vec::new(), revision: Revision(3) });
}

#[tokio::test]
async fn a_call_is_repeated_until_somebody_answers() {
    let server = serve(TempService::new()).await;
    let client = Client::new([server.address.clone()]);
    client.execute(fixtures::init()).await.unwrap();
    server.service.set_reachable(false);
    let brief = client.with_deadline(Duration::from_millis(100));
    let error = brief.execute(open_session()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.execute(open_session()).await }
    });
    tokio::task::yield_now().await;
    server.service.set_reachable(true);
    assert_eq!(waiting.await.unwrap().unwrap().revision, Revision(2));
}

#[tokio::test]
async fn nobody_there_is_said_with_the_addresses_that_were_tried() {
    let address = nobody().await;
    let client = Client::new([address.clone()]).with_deadline(Duration::from_millis(100));
    let error = client.query(Query::Cluster).await.unwrap_err();
    let said = error.to_string();
    assert_eq!(said, format!("the metadata service at {address} does not answer"));
}

#[tokio::test]
async fn a_watch_resumes_without_gaps() {
    let server = serve(TempService::new()).await;
    let client = Client::new([server.address.clone()]);
    client.execute(fixtures::init()).await.unwrap();
    client.execute(open_session()).await.unwrap();
    let mut watch = client.watch(Revision(0), vec![EventKind::Session]);
    let next = watch.next().await.unwrap().unwrap();
    assert!(matches!(next, WatchItem::Events { revision: Revision(2), .. }), "{next:?}");
    server.service.set_reachable(false);
    let ended = loop {
        if let Err(error) = watch.next().await.unwrap() {
            break error;
        }
    };
    assert!(matches!(ended, Error::Unavailable { .. }), "{ended}");
    server.service.set_reachable(true);
    client.execute(open_session()).await.unwrap();
    let mut watch = client.watch(Revision(2), vec![]);
    let next = watch.next().await.unwrap().unwrap();
    assert!(matches!(next, WatchItem::Events { revision: Revision(3), .. }), "{next:?}");
}

#[tokio::test]
async fn compacted_is_said_only_when_nobody_has_the_changes() {
    let member = |compacted| {
        serve_routes(move |address| {
            let backend = Arc::new(Forgetful(Revision(compacted)));
            let members = vec![address.to_owned()].into();
            tonic::service::Routes::new(crate::serve::service(backend, members))
        })
    };
    let (whole, _serving_whole) = member(0).await;
    let (late, _serving_late) = member(5).await;
    let (later, _serving_later) = member(7).await;
    let gone = nobody().await;

    let client = Client::new([whole.clone(), late.clone(), later.clone(), gone.clone()]);
    // The leader is the last to be asked, but asked it is.
    client.contacts(|contacts| contacts.set_leader(&whole));
    let mut answered = 0;
    for _ in 0..8 {
        match client.watch(Revision(3), vec![]).next().await.unwrap() {
            Ok(item) => {
                assert!(matches!(item, WatchItem::Progress(Revision(9))), "{item:?}");
                answered += 1;
            }
            Err(Error::Unavailable { tried, .. }) => assert_eq!(tried, gone),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(answered >= 4, "{answered} of 8 watches began");

    let client = Client::new([late, later, gone.clone()]);
    let mut compacted = 0;
    for _ in 0..6 {
        match client.watch(Revision(3), vec![]).next().await.unwrap() {
            Err(Error::Compacted { compacted: Revision(5) }) => compacted += 1,
            Err(Error::Unavailable { tried, .. }) => assert_eq!(tried, gone),
            other => panic!("{other:?}"),
        }
    }
    assert!(compacted >= 4, "{compacted} of 6 watches were told");
}

#[tokio::test]
async fn a_follower_sees_the_ring_through_interruptions() {
    let server = serve(TempService::new()).await;
    let client = Client::new([server.address.clone()]);
    client.execute(fixtures::init()).await.unwrap();
    client.execute(Command::RegisterPeer(fixtures::peer(1))).await.unwrap();
    let mut steps = follow(Arc::new(client.clone()), vec![EventKind::Ring]);
    let Followed::Listed(Answer::Ring { ring: Some(ring), .. }) = steps.next().await.unwrap()
    else {
        panic!("the ring is listed first")
    };
    assert_eq!(ring.version.0, 1);
    for version in 2..5 {
        server.service.set_reachable(version % 2 == 0);
        server.service.set_reachable(true);
        client.execute(Command::SetRing(fixtures::ring(version, &[1]))).await.unwrap();
        let events = loop {
            if let Followed::Changed { events, .. } = steps.next().await.unwrap() {
                break events;
            }
        };
        let [Event::RingChanged(ring)] = &*events else { panic!("{events:?}") };
        assert_eq!(ring.version.0, version);
    }
}
