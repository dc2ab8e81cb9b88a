//! The client against the `temp` service, over gRPC on loopback.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;

use super::Client;
use crate::fixtures;
use crate::{
    Answer, Command, Error, Event, EventKind, Followed, MetadataService, Outcome, Query, Refusal,
    Revision, TempService, WatchItem, follow,
};

struct Server {
    address: String,
    service: TempService,
    _task: AbortOnDropHandle<()>,
}

async fn serve(service: TempService) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = service.routes(&address);
    let task = tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_routes(routes);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    Server { address, service, _task: AbortOnDropHandle::new(task) }
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
