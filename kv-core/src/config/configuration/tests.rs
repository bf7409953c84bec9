use super::*;
use crate::ids::{Hash, Op};

fn id(number: u8) -> MemberId {
    MemberId::new(number)
}

fn stop(op: u64) -> Anchor {
    Anchor::new(Op::new(op), Hash::of(&op.to_le_bytes()))
}

fn founding(data: u8, witnesses: u8) -> Configuration {
    let builder = (0..data).fold(Cluster::builder("c"), |it, id| it.member(id, format!("host-{id}:7000")));
    let builder = (data..data + witnesses).fold(builder, |it, id| it.witness(id, format!("host-{id}:7000")));
    Configuration::founding(&builder.build().unwrap())
}

fn request(of: &Configuration, change: Change) -> ChangeRequest {
    ChangeRequest {
        ends: of.epoch,
        nonce: 1,
        change,
        first: id(0),
        history: HistoryId(7),
        disks: BTreeMap::new(),
    }
}

fn try_change(of: &Configuration, change: Change) -> Result<Configuration, ChangeRefused> {
    of.after(&request(of, change), stop(u64::from(of.epoch.get()) + 1))
}

fn changed(of: &Configuration, change: Change) -> Configuration {
    let next = try_change(of, change).unwrap();
    assert_eq!(Configuration::decode(&next.encode()).as_ref(), Some(&next));
    next
}

fn add(number: u8) -> Change {
    Change::Add { id: id(number), address: format!("host-{number}:7000"), role: Role::Data }
}

fn promote(number: u8) -> Change {
    Change::Promote { id: id(number), disk: DiskId(u128::from(number)) }
}

fn remove(number: u8) -> Change {
    Change::Remove { id: id(number) }
}

fn replace(old: u8, new: u8) -> Change {
    Change::Replace { old: id(old), new: id(new), disk: DiskId(u128::from(new)) }
}

#[test]
fn a_lost_member_is_replaced_in_two_epochs() {
    let first = founding(3, 0);
    assert_eq!((first.epoch, first.history, first.first), (Epoch::ZERO, None, View::ZERO));
    let second = changed(&first, add(3));
    assert_eq!((second.epoch, second.history, second.stop), (Epoch::new(1), Some(HistoryId(7)), stop(1)));
    let cluster = second.cluster("c").unwrap();
    assert_eq!((cluster.len(), cluster.voter_count(), cluster.replication_quorum()), (4, 3, 2));
    let third = changed(&second, replace(1, 3));
    let cluster = third.cluster("c").unwrap();
    assert_eq!(cluster.voters().map(|member| member.id).collect::<Vec<_>>(), [id(0), id(2), id(3)]);
    assert_eq!(third.members[&id(3)].disk, Some(DiskId(3)));
    assert_eq!(third.members[&id(0)].disk, None, "nobody has told the disk of a founder");
    assert!(third.used.contains(id(1)));
}

/// The next request draws another history id, and it does not count any more.
#[test]
fn the_first_change_fixes_the_history() {
    let second = changed(&founding(1, 0), add(1));
    let again = ChangeRequest { history: HistoryId(8), ..request(&second, remove(1)) };
    assert_eq!(second.after(&again, stop(2)).unwrap().history, Some(HistoryId(7)));
}

#[test]
fn the_named_member_is_primary_of_the_first_view() {
    let of = changed(&founding(3, 0), add(3));
    for first in [0, 2, 3] {
        let request = ChangeRequest { first: id(first), ..request(&of, replace(1, 3)) };
        let next = of.after(&request, stop(2)).unwrap();
        assert_eq!(next.cluster("c").unwrap().primary(next.first), id(first));
        assert_eq!(next.first.epoch(), Epoch::new(2));
    }
    for first in [1, 9] {
        let request = ChangeRequest { first: id(first), ..request(&of, replace(1, 3)) };
        assert_eq!(of.after(&request, stop(2)), Err(ChangeRefused::NoPrimary(id(first))), "it goes");
    }
}

#[test]
fn disks_of_voters_are_named_once() {
    let of = founding(3, 0);
    let disks = BTreeMap::from([(id(0), DiskId(10)), (id(1), DiskId(11)), (id(9), DiskId(19))]);
    let second = of.after(&ChangeRequest { disks, ..request(&of, add(3)) }, stop(1)).unwrap();
    let disk = |of: &Configuration, member| of.members[&id(member)].disk;
    assert_eq!([0, 1, 2].map(|member| disk(&second, member)), [Some(DiskId(10)), Some(DiskId(11)), None]);
    let disks = BTreeMap::from([(id(0), DiskId(20)), (id(2), DiskId(22)), (id(3), DiskId(23))]);
    let third = second.after(&ChangeRequest { disks, ..request(&second, add(4)) }, stop(2)).unwrap();
    let named = [0, 2, 3].map(|member| disk(&third, member));
    assert_eq!(named, [Some(DiskId(10)), Some(DiskId(22)), None], "a standby may still change its disk");
}

/// The directory of a newcomer was copied from a member: the list would name one disk twice, and nobody could read it.
#[test]
fn two_members_cannot_have_one_disk() {
    let first = changed(&founding(3, 0), add(3));
    let copied = [(id(1), DiskId(1)), (id(2), DiskId(2))].into_iter().collect();
    let copy = Change::Promote { id: id(3), disk: DiskId(1) };
    let request = ChangeRequest { disks: copied, ..request(&first, copy) };
    assert_eq!(first.after(&request, stop(2)), Err(ChangeRefused::DiskInUse(id(3))));
}

#[test]
fn an_id_is_used_once() {
    let mut of = changed(&founding(1, 0), add(1));
    of = changed(&of, remove(1));
    assert_eq!(try_change(&of, add(1)), Err(ChangeRefused::UsedId(id(1))));
    assert_eq!(try_change(&of, add(0)), Err(ChangeRefused::UsedId(id(0))));
    for number in 2..=u8::MAX {
        of = changed(&of, add(number));
        of = changed(&of, remove(number));
    }
    assert_eq!(try_change(&of, add(1)), Err(ChangeRefused::NoIdLeft));
}

#[test]
fn each_refusal_is_named() {
    use ChangeRefused::{Invalid, LastVoter, NotAStandby, NotAVoter, OtherEpoch, Unchanged, Unknown};
    let of = changed(&founding(3, 0), add(3));
    let late = ChangeRequest { ends: Epoch::ZERO, ..request(&of, remove(1)) };
    let refused = of.after(&late, stop(2));
    assert_eq!(refused, Err(OtherEpoch { ends: Epoch::ZERO, present: Epoch::new(1) }));
    let address = |number, text: &str| Change::Address { id: id(number), address: text.to_owned() };
    let role = |number, role| Change::Role { id: id(number), role };
    let bad = ConfigError::Address { id: id(1), address: "a b".to_owned() };
    for (change, expected) in [
        (promote(9), Unknown(id(9))),
        (promote(2), NotAStandby(id(2))),
        (remove(9), Unknown(id(9))),
        (replace(3, 3), NotAVoter(id(3))),
        (replace(1, 2), NotAStandby(id(2))),
        (replace(9, 3), Unknown(id(9))),
        (address(1, "host-1:7000"), Unchanged(id(1))),
        (address(1, "host-2:7000"), Invalid(ConfigError::DuplicateAddress("host-2:7000".to_owned()))),
        (address(1, "a b"), Invalid(bad)),
        (role(1, Role::Data), Unchanged(id(1))),
        (role(9, Role::Witness), Unknown(id(9))),
    ] {
        assert_eq!(try_change(&of, change.clone()), Err(expected), "{change:?}");
    }
    let single = changed(&founding(1, 0), add(1));
    assert_eq!(try_change(&single, remove(0)), Err(LastVoter(id(0))));
    let witness = try_change(&founding(2, 1), role(1, Role::Witness));
    assert!(
        matches!(witness, Err(Invalid(ConfigError::TooManyWitnesses { witnesses: 2, .. }))),
        "{witness:?}"
    );
    // A data member that goes leaves two, and the witness alone would be a quorum of data.
    let removed = try_change(&founding(2, 1), remove(1)).map(|next| next.members.len());
    assert_eq!(removed, Ok(2), "one witness of two still leaves every write on a data member");
    let mut far = of;
    far.epoch = LAST_EPOCH;
    assert_eq!(try_change(&far, remove(1)), Err(ChangeRefused::LastEpoch));
}

#[test]
fn the_largest_configuration_fits() {
    let long = |number: u8, length: usize| format!("{number:0>length$}");
    let mut of = founding(1, 0);
    for number in 1..=14 {
        let (id, role) = (id(number), Role::Data);
        of = changed(&of, Change::Add { id, address: long(number, 70), role });
        of = changed(&of, Change::Promote { id, disk: DiskId(u128::MAX - u128::from(number)) });
    }
    assert!(of.encode().len() > MOST_BYTES - 200, "{}", of.encode().len());
    let one_more = Change::Add { id: id(15), address: long(15, 70), role: Role::Data };
    assert_eq!(try_change(&of, one_more), Err(ChangeRefused::Invalid(ConfigError::TooManyMembers(16))));
    let longer = try_change(&of, Change::Address { id: id(1), address: long(1, 255) });
    assert!(matches!(longer, Err(ChangeRefused::TooLong { bytes }) if bytes > MOST_BYTES), "{longer:?}");
}

#[test]
fn only_a_possible_configuration_is_decoded() {
    let good = changed(&changed(&founding(3, 0), add(3)), replace(1, 3));
    let spoilers: [fn(&mut Configuration); 9] = [
        |it| it.epoch = Epoch::ZERO,
        |it| it.history = None,
        |it| it.first = View::ZERO,
        |it| it.first = View::of(it.epoch, 3),
        |it| it.stop = Anchor::ZERO,
        |it| it.used = UsedIds::default(),
        |it| it.members.clear(),
        |it| it.members.get_mut(&id(0)).unwrap().disk = Some(DiskId(3)),
        |it| it.members.get_mut(&id(3)).unwrap().is_standby = true,
    ];
    for (number, spoil) in spoilers.into_iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert_eq!(Configuration::decode(&bad.encode()), None, "spoiler {number}");
    }
    let bytes = good.encode();
    for length in 0..bytes.len() {
        assert_eq!(Configuration::decode(&bytes[..length]), None, "{length} bytes");
    }
    assert_eq!(Configuration::decode(&[&bytes[..], &[0]].concat()), None);
    // Whatever changes, what is decoded is sound, and nothing panics.
    for at in 0..bytes.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = byte;
            if let Some(decoded) = Configuration::decode(&changed) {
                assert!(decoded.is_sound() && decoded.cluster("c").is_ok());
            }
        }
    }
}
