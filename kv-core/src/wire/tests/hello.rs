//! Accepted callers, and the answers to refused ones.

use super::*;

#[test]
fn versions_meet_at_the_newest_in_common() {
    let range = |min, max| VersionRange { min, max };
    assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
    assert_eq!(range(2, 5).common(range(1, 3)), Some(3));
    assert_eq!(range(1, 1).common(range(1, 1)), Some(1));
    assert_eq!(range(1, 2).common(range(3, 4)), None);
}

#[test]
fn a_hello_of_another_version_is_reported_before_the_rest_is_understood() {
    let mut body = postcard::to_stdvec(&VersionRange { min: 100, max: 101 }).unwrap();
    body.extend_from_slice(b"whatever version 100 says");
    let frame = Frame::parse(sealed(Kind::Hello, &body), Kind::Hello, 0).unwrap();
    let error = frame.hello().unwrap_err();
    assert!(
        matches!(error, WireError::Version { theirs: VersionRange { min: 100, max: 101 }, .. }),
        "{error}"
    );
}

/// F-conf-4: what an end of any other version must understand.
#[test]
fn f_conf_4_refusals_and_version_choices_have_the_same_layout_in_every_version() {
    let refused = HelloReply::Refused { reason: "no".into(), temporary: true };
    assert_eq!(encode_hello_reply(&refused)[HEADER_BYTES..], [1, 2, b'n', b'o', 1]);
    let welcome = &encode_hello_reply(&replies()[0])[HEADER_BYTES..];
    assert_eq!(welcome[..2], [0, 9], "a welcome, and the version");
    assert_eq!(encode_hello(&hellos()[0])[HEADER_BYTES..][..2], [8, 9], "from version 8 to version 9");
    let later = sealed(Kind::HelloReply, b"\0\x64whatever version 100 says");
    let error = Frame::parse(later, Kind::HelloReply, 0).unwrap().hello_reply().unwrap_err();
    assert!(
        matches!(error, WireError::Version { theirs: VersionRange { min: 100, max: 100 }, .. }),
        "{error}"
    );
}

#[test]
fn valid_callers_are_accepted() {
    let me = expectation();
    for hello in hellos() {
        let welcome = me.check(&hello, hello.lane, &Peer::Unauthenticated).unwrap();
        assert_eq!(welcome.member, me.me);
        assert_eq!(welcome.members, me.members);
        assert_eq!(welcome.protocol, PROTOCOL.max);
    }
    let client = Peer::Client { cluster: "test".into(), name: "someone".into() };
    let member = Peer::Member { cluster: "test".into(), id: 1 };
    assert!(me.check(&hellos()[0], Lane::Client, &client).is_ok());
    assert!(me.check(&hellos()[0], Lane::Client, &member).is_ok());
    assert!(me.check(&hellos()[1], Lane::Control, &member).is_ok());
}

#[test]
fn invalid_callers_receive_the_reason() {
    let me = expectation();
    let judge = |hello: &Hello| {
        me.check(hello, hello.lane, &Peer::Unauthenticated).expect_err("it is wrong").to_string()
    };
    let other = || FixedOptions::from(&Options { max_leases: 7, ..Options::default() });
    let from = |caller: Expectation| Hello::member(&caller, MemberId::new(0), Lane::Log);
    let cases = [
        (Hello::client(ClusterId::of_name("prod"), ""), "this is member 0 of cluster \"test\""),
        (from(Expectation { cluster: "prod".into(), ..caller() }), "cluster \"test\""),
        (from(Expectation { me: MemberId::new(9), ..caller() }), "member 9 is not a peer of member 0"),
        (from(Expectation { me: MemberId::new(0), ..caller() }), "member 0 is not a peer of member 0"),
        (from(Expectation { options: other(), ..caller() }), "has max_leases 7, member 0 has 10000"),
        (from(Expectation { fingerprint: Hash::of(b"x"), ..caller() }), "the member list of member 1"),
        (Hello::member(&caller(), MemberId::new(2), Lane::Log), "you asked for member 2"),
        (Hello { lane: Lane::Log, ..hellos()[0].clone() }, "lane Log"),
        (Hello { lane: Lane::Client, ..hellos()[1].clone() }, "lane Client"),
        (
            Hello { protocol: VersionRange { min: 1, max: 2 }, ..hellos()[0].clone() },
            "you speak protocol versions 1 to 2, member 0 speaks 8 to 9",
        ),
    ];
    for (hello, expected) in cases {
        let text = judge(&hello);
        assert!(text.contains(expected), "{text}");
    }
    assert!(
        me.check(&hellos()[0], Lane::Bulk, &Peer::Unauthenticated).is_err(),
        "another lane than it claims"
    );
}

#[test]
fn a_certificate_must_match_the_hello() {
    let me = expectation();
    let client = |cluster: &str| Peer::Client { cluster: cluster.into(), name: "someone".into() };
    let member = |cluster: &str, id| Peer::Member { cluster: cluster.into(), id };
    // F-input-4: a client's certificate does not make a member.
    for (hello, peer) in [
        (&hellos()[1], client("test")),
        (&hellos()[1], member("test", 2)),
        (&hellos()[1], member("prod", 1)),
        (&hellos()[1], client("prod")),
        (&hellos()[0], client("prod")),
        (&hellos()[0], member("prod", 1)),
    ] {
        let refusal = me.check(hello, hello.lane, &peer).unwrap_err();
        assert!(matches!(refusal, Refusal::Identity { .. }), "{refusal}");
    }
}

/// F-conf-6, F-input-4: with certificates, nobody comes in without one, and a member that was removed in no role at
/// all.
#[test]
fn with_certificates_unknown_and_removed_callers_are_refused() {
    let me = Expectation { authenticated: true, ..expectation() };
    let removed = Peer::Member { cluster: "test".into(), id: 9 };
    for hello in hellos() {
        let refusal = me.check(&hello, hello.lane, &Peer::Unauthenticated).unwrap_err();
        assert!(matches!(refusal, Refusal::Unauthenticated { .. }) && !refusal.is_temporary(), "{refusal}");
        let refusal = me.check(&hello, hello.lane, &removed).unwrap_err();
        assert!(
            refusal.to_string().contains("member 9, which is not in the member list of member 0"),
            "{refusal}"
        );
    }
    let member = Peer::Member { cluster: "test".into(), id: 1 };
    assert!(me.check(&hellos()[1], Lane::Control, &member).is_ok());
}

#[test]
fn the_called_member_must_prove_its_identity() {
    let own = Peer::Client { cluster: "test".into(), name: "app".into() };
    let member = |cluster: &str, id| Peer::Member { cluster: cluster.into(), id };
    let prove = |peer: &Peer, id: Option<u8>| prove_member(&own, peer, "test", id.map(MemberId::new));
    assert_eq!(prove(&member("test", 1), Some(1)), Ok(()));
    assert_eq!(prove(&member("test", 1), None), Ok(()));
    for (peer, id, expected) in [
        (
            member("test", 2),
            Some(1),
            "certificate is of member 2 of \"test\", and member 1 of \"test\" should be there",
        ),
        (member("prod", 1), Some(1), "certificate is of member 1 of \"prod\""),
        (member("prod", 1), None, "and a member of \"test\" should be there"),
        (own.clone(), Some(1), "certificate is of client \"app\""),
        (own.clone(), None, "certificate is of client \"app\""),
        (Peer::Unauthenticated, None, "of nobody known"),
    ] {
        let text = prove(&peer, id).unwrap_err();
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(prove_member(&Peer::Unauthenticated, &Peer::Unauthenticated, "test", None), Ok(()));
}
