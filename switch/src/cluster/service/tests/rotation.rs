//! The authority is rotated, and who was not there.

use super::*;

async fn rotated(hosts: &[Host], generation: u64) {
    for host in hosts {
        let is_done = || {
            let state = host.state();
            let authorities = state.authorities().unwrap();
            authorities.generation == generation
                && authorities.former.is_empty()
                && host.member().unwrap().identity().trusted == [authorities.current.clone()]
                && host.member().unwrap().identity().authority == authorities.current
        };
        eventually("the new authority", async || is_done()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_is_rotated_while_all_goes_on() {
    let mut hosts = cluster(3).await;
    let old = hosts[0].token(Role::Voter).await.unwrap().token;
    let rotation = hosts[1].rotate_authority().await.unwrap();
    assert_eq!((rotation.generation, rotation.waiting.len()), (2, 0), "{rotation:?}");
    rotated(&hosts, 2).await;
    hosts[2].network("n1").await.unwrap();

    let new = hosts[2].token(Role::Voter).await.unwrap().token;
    assert!(new.0.contains(&rotation.authority), "the token has the digest of the authority");
    let fresh = Host::new("fresh").await;
    let error = fresh.join(&join(&hosts[0], &old)).await.unwrap_err();
    assert!(error.to_string().contains("the join token is the present one"), "{error}");
    fresh.join(&join(&hosts[0], &new)).await.unwrap();
    hosts.push(fresh);
    voters(&hosts, 4).await;

    // Every voter has the key: whoever leads goes on signing, after a start too.
    for host in &hosts {
        eventually("the key", async || host.member().unwrap().present_authority().is_some()).await;
    }
    for host in &mut hosts {
        host.stop().await;
    }
    for host in &mut hosts {
        host.start().await;
    }
    hosts[1].network("n2").await.unwrap();
    let rotation = hosts[3].rotate_authority().await.unwrap();
    assert_eq!(rotation.generation, 3);
    rotated(&hosts, 3).await;
    // None is under way.
    let finished = hosts[0].drop_former_authority().await.unwrap();
    assert_eq!((finished.generation, finished.former_is_trusted), (3, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_during_a_rotation_gets_in_while_the_former_authority_is_trusted() {
    let mut hosts = cluster(3).await;
    hosts[2].stop().await;
    let rotation = hosts[0].rotate_authority().await.unwrap();
    assert_eq!(rotation.waiting, ["host3".parse().unwrap()]);
    assert!(rotation.former_is_trusted);
    let error = hosts[0].rotate_authority().await.unwrap_err();
    assert!(error.to_string().contains("is being rotated already"), "{error}");
    let problems = hosts[1].health().await.unwrap().problems;
    assert!(problems.iter().any(|problem| problem.contains("host3") && problem.contains("ca rotate")));

    hosts[2].start().await;
    rotated(&hosts, 2).await;
    hosts[2].network("n1").await.unwrap();
    assert!(hosts[0].health().await.unwrap().problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_for_too_long_is_told_what_to_do() {
    let mut hosts = cluster(3).await;
    hosts[2].stop().await;
    hosts[0].rotate_authority().await.unwrap();
    let finished = hosts[1].drop_former_authority().await.unwrap();
    assert_eq!((finished.waiting.len(), finished.former_is_trusted), (1, false));
    hosts[1].network("n1").await.unwrap();

    hosts[2].start().await;
    eventually("the refusal", async || hosts[2].status(true).await.membership == Membership::Fenced).await;
    let error = hosts[2].network("n2").await.unwrap_err();
    assert!(matches!(error, ClusterError::Fenced(Refusal::Distrusted)), "{error}");
    assert!(error.to_string().contains("cluster leave --force"), "{error}");
    // It is a member still, by its name, which has to be free before it can join anew.
    hosts[0].remove("host3", true).await.unwrap();
    hosts[2].leave(true).await.unwrap();
    let token = hosts[0].token(Role::Voter).await.unwrap().token;
    hosts[2].join(&join(&hosts[1], &token)).await.unwrap();
    hosts[2].network("n2").await.unwrap();
}

/// The leader of old that does not know of a demotion is the one to be asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_and_a_token_are_for_voters_by_the_word_of_a_majority() {
    let mut hosts = cluster(3).await;
    let token = hosts[0].token(Role::Learner).await.unwrap().token;
    let learner = Host::new("learner").await;
    learner.join(&join(&hosts[0], &token)).await.unwrap();
    eventually("the learner", async || hosts[1].state().nodes().count() == 4).await;
    let ask = async |host: &Host, request: Request| {
        let members = (learner.member().unwrap(), host.member().unwrap().node);
        members.0.call(members.1, request, LONG).await.unwrap()
    };
    let not_a_voter = Response::Denied(Denied::NotAVoter);
    for host in &hosts {
        assert_eq!(ask(host, Request::Authority).await, not_a_voter);
        eventually("the key", async || host.member().unwrap().authority().is_some()).await;
        let key = host.member().unwrap().authority().unwrap().key();
        assert_eq!(ask(host, Request::NextAuthority(key)).await, Response::Denied(Denied::NotAllowed));
    }
    let leading = leader(&hosts).await;
    let asked = learner.member().unwrap().asked_now(RequestId([3; 16]));
    for manage in [
        Manage::ShowToken(Role::Voter),
        Manage::ShowToken(Role::Learner),
        Manage::RotateToken { role: Role::Voter, asked },
        Manage::RotateAuthority { asked },
        Manage::DropAuthority,
        Manage::Promote(NodeId(4)),
    ] {
        assert_eq!(ask(&hosts[leading], Request::Manage(manage)).await, not_a_voter);
    }
    let grab = SharedChange::DropAuthority { generation: 1 };
    let error = learner.propose(grab, RequestId([4; 16])).await.unwrap_err();
    assert!(matches!(error, ClusterError::Denied(Denied::NotAllowed)), "{error}");

    // A voter without a quorum does not know who votes at present: it says nothing, to voters neither.
    for at in (0..3).filter(|at| *at != leading) {
        hosts[at].stop().await;
    }
    let answer = ask(&hosts[leading], Request::Authority).await;
    assert_eq!(answer, Response::Busy);
    let answer = ask(&hosts[leading], Request::Manage(Manage::ShowToken(Role::Voter))).await;
    assert!(matches!(answer, Response::NotLeader { .. }), "{answer:?}");
}
