//! Votes: who gets one, by whose word, and what those can do who have none any more.

use super::*;

fn voting(status: &GroupStatus) -> BTreeSet<NodeId> {
    let voters = status.members.iter().filter(|member| member.role == GroupRole::Voter);
    voters.map(|member| member.node).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn votes_are_given_and_taken_and_stay_odd() {
    let [first, second, third] = three().await;
    let (fourth, fifth) = (Daemon::start(4, &[&first]).await, Daemon::start(5, &[&first]).await);
    let all = [&first, &second, &third, &fourth, &fifth];
    let client = Client::new(all.map(|daemon| daemon.address.clone()));
    let admin = AdminClient::new(all.map(|daemon| daemon.address.clone()));
    wait_for_voters(&admin, 5).await;
    // Fewer may vote from now on: the group becomes smaller by itself, and does not grow again.
    client.execute(Command::SetVotersMax(3)).await.unwrap();
    wait_for_voters(&admin, 3).await;
    let status = admin.status().await.unwrap();
    assert_eq!(status.voters_max, 3);
    let learner = status.members.iter().find(|it| it.role == GroupRole::Learner).unwrap().node;
    let leader = status.leader().unwrap().node;

    let error = admin.promote(NodeId(9999), None).await.unwrap_err();
    assert!(matches!(error, AdminError::NoSuchMember(_)), "{error}");
    let error = admin.promote(learner, None).await.unwrap_err();
    assert!(matches!(error, AdminError::EvenVoters { voters: 4 }), "{error}");
    // It is a voter already: nothing is to do, and nothing is refused.
    admin.promote(leader, None).await.unwrap();
    // Also in the place of the leader.
    admin.promote(learner, Some(leader)).await.unwrap();
    let status = admin.status().await.unwrap();
    assert!(voting(&status).contains(&learner) && !voting(&status).contains(&leader));
    assert_eq!(voters(&status), 3);
    // It was done: that it is asked for once more, as after a lost answer, changes nothing.
    admin.promote(learner, Some(leader)).await.unwrap();
    assert_eq!(voting(&admin.status().await.unwrap()), voting(&status));
    let other = *voting(&status).iter().find(|node| **node != learner).unwrap();
    let error = admin.promote(learner, Some(other)).await.unwrap_err();
    assert!(matches!(error, AdminError::EvenVoters { voters: 2 }), "{error}");
    client.execute(create("after")).await.unwrap();

    // The log says the same, on every member.
    let group = match client.query(Query::Group).await.unwrap() {
        Answer::Group { group, .. } => group,
        other => panic!("{other:?}"),
    };
    let said = group.members.iter().filter(|place| place.votes).map(|place| place.node);
    assert_eq!(said.collect::<BTreeSet<_>>(), voting(&status));
    client.execute(Command::SetVotersMax(5)).await.unwrap();
    wait_for_voters(&admin, 5).await;
    for daemon in [first, second, third, fourth, fifth] {
        daemon.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_that_goes_on_harms_nobody() {
    let [first, second, third] = three().await;
    let admin = first.admin();
    let leader = admin.status().await.unwrap().leader().unwrap().node;
    let gone = if third.node().await == leader { second.node().await } else { third.node().await };
    admin.remove_member(gone).await.unwrap();
    // Both the one that was removed and the one that lost its vote with it go on running.
    wait_for_voters(&admin, 1).await;
    let before = admin.status().await.unwrap();
    for number in 0..100 {
        first.client().execute(create(&format!("v{number}"))).await.unwrap();
    }
    // Several of its election times later nothing has changed.
    let removed = if gone == third.node().await { &third } else { &second };
    let mut leadership = removed.member.core.node().unwrap().leadership();
    let campaigned = leadership.wait_for(|now| now.is_self);
    let campaigned = tokio::time::timeout(Duration::from_secs(4), campaigned).await;
    assert!(campaigned.is_err(), "a removed member leads");
    let after = admin.status().await.unwrap();
    let leads = |status: &GroupStatus| (status.term, status.leader().map(|leader| leader.node));
    assert_eq!(leads(&after), leads(&before));
    let said = removed.client().with_deadline(Duration::from_secs(2)).stale();
    assert!(!volume_names(&said).await.contains("v99"), "it still gets the log");
    for daemon in [first, second, third] {
        daemon.kill().await;
    }
}
