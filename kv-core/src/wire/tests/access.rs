//! Who may send what: the whole table, and that nothing is missing in it.

use super::*;
use crate::config::Role;

/// Everybody there is.
fn parties() -> Vec<Party> {
    let member = |role| Lane::ALL.map(|lane| Party::Member { role, lane });
    let mut parties = vec![Party::Client];
    parties.extend(member(Role::Data));
    parties.extend(member(Role::Witness));
    parties
}

/// F-input-9: name, lane, and whether a witness may send it.
#[test]
fn f_input_9_every_message_has_its_lane_and_its_senders() {
    let table = [
        ("Prepare", Lane::Log, false),
        ("PrepareOk", Lane::Log, true),
        ("Commit", Lane::Control, false),
        ("CommitOk", Lane::Control, true),
        ("StartViewChange", Lane::Control, true),
        ("DoViewChange", Lane::Control, true),
        ("StartView", Lane::Control, false),
        ("GetState", Lane::Control, true),
        ("Fetch", Lane::Bulk, true),
        ("Headers", Lane::Bulk, true),
        ("NewState", Lane::Bulk, true),
        ("TooOld", Lane::Bulk, true),
        ("GetSnapshot", Lane::Bulk, true),
        ("SnapshotChunk", Lane::Bulk, false),
        ("SnapshotGone", Lane::Bulk, true),
        ("Formation", Lane::Control, true),
        ("StateDigest", Lane::Control, false),
        ("AskEpoch", Lane::Control, true),
        ("Epoch", Lane::Control, true),
    ];
    let messages = messages();
    for (code, (name, lane, witness)) in (0u8..).zip(table) {
        let samples: Vec<_> = messages.iter().filter(|message| message.name() == name).collect();
        assert!(!samples.is_empty(), "no sample of {name}");
        for message in samples {
            assert_eq!(
                encode_message(message)[HEADER_BYTES],
                code,
                "the table is in the order of the layout"
            );
            for party in parties() {
                let allowed = match party {
                    Party::Client => false,
                    Party::Member { lane: there, role } => there == lane && (witness || role == Role::Data),
                };
                assert_eq!(party.may_send_message(message), allowed, "{name} from {party:?}");
            }
        }
    }
    assert_none_beyond(Kind::Message, table.len(), 100);
}

/// F-input-9: the calls that a client may make.
#[test]
fn f_input_9_every_call_is_a_clients() {
    let calls = client_messages();
    let mut codes: Vec<_> = calls.iter().map(|call| encode_client_message(call)[HEADER_BYTES + 1]).collect();
    codes.dedup();
    assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7], "a sample of each call");
    for call in &calls {
        for party in parties() {
            assert_eq!(party.may_call(&call.what), party == Party::Client, "{call:?} from {party:?}");
        }
    }
    // The call's number stands before.
    // One byte: above 127 there are other encodings of the same.
    for code in codes.len()..128 {
        assert_unknown(Kind::Client, &[1, u8::try_from(code).unwrap()]);
    }
}

/// F-input-9: the operations that a client may send to the log.
#[test]
fn f_input_9_every_operation_has_its_senders() {
    let put = request(1).operation;
    let operations = [
        (Operation::OpenSession { nonce: 1 }, true),
        (Operation::CloseSession, true),
        (put, true),
        (Operation::Expire(Vec::new()), false),
        (Operation::Reconfigure(Box::new(next_configuration())), false),
    ];
    for (operation, by_clients) in operations {
        for party in parties() {
            assert_eq!(
                party.may_order(&operation),
                by_clients && party == Party::Client,
                "{operation:?} from {party:?}"
            );
        }
    }
}

/// There are no kinds of body besides those of the table. A new kind must define its allowed senders.
fn assert_none_beyond(kind: Kind, known: usize, until: u8) {
    for code in u8::try_from(known).unwrap()..until {
        assert_unknown(kind, &[code]);
    }
}

fn assert_unknown(kind: Kind, start: &[u8]) {
    // Behind it enough zeros for any body: as the last of them it would decode.
    for zeros in 0..64 {
        let body = [start, &vec![0; zeros]].concat();
        assert!(decode(kind, sealed(kind, &body)).is_err(), "{start:?} is a {kind:?} that nobody knows");
    }
}
