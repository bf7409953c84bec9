//! Finds out how two member lists differ, if only the fingerprint of one of them is known.

use super::{Role, fingerprint_of};
use crate::ids::{Hash, MemberId};
use std::collections::BTreeMap;

/// Describes how the member list with the fingerprint `other` differs from `members`, if the two lists differ in one
/// member. A hash does not reveal the list, so this tries every list that differs in one member. The description begins
/// with a colon, and continues a sentence. If no such list has the fingerprint, the description is empty.
pub(crate) fn difference(name: &str, members: &BTreeMap<MemberId, Role>, other: Hash) -> String {
    found(name, members, other).map_or_else(String::new, |difference| format!(": {difference}"))
}

fn found(name: &str, members: &BTreeMap<MemberId, Role>, other: Hash) -> Option<String> {
    let is_it = |tried: &BTreeMap<MemberId, Role>| {
        fingerprint_of(name, tried.iter().map(|(id, role)| (*id, *role))) == other
    };
    let with_one_more = |tried: &BTreeMap<MemberId, Role>| {
        let absent = (0..=u8::MAX).map(MemberId::new).filter(|id| !tried.contains_key(id));
        let absent: Vec<_> = absent.flat_map(|id| [(id, Role::Data), (id, Role::Witness)]).collect();
        let mut tried = tried.clone();
        absent.into_iter().find(|(id, role)| {
            tried.insert(*id, *role);
            let is_it = is_it(&tried);
            tried.remove(id);
            is_it
        })
    };
    for (id, role) in members {
        let mut tried = members.clone();
        let turned = if *role == Role::Data { Role::Witness } else { Role::Data };
        tried.insert(*id, turned);
        if is_it(&tried) {
            return Some(format!("member {id} is {turned} there, but {role} here"));
        }
        tried.remove(id);
        if is_it(&tried) {
            return Some(format!("member {id} is only in this list"));
        }
        if let Some((other, role)) = with_one_more(&tried) {
            return Some(format!("that list has member {other} ({role}) instead of member {id}"));
        }
    }
    let (id, role) = with_one_more(members)?;
    Some(format!("member {id} ({role}) is missing from this list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_member_that_differs_is_named() {
        use Role::{Data, Witness};
        let of = |members: &[(u8, Role)]| -> BTreeMap<MemberId, Role> {
            members.iter().map(|(id, role)| (MemberId::new(*id), *role)).collect()
        };
        let here = of(&[(0, Data), (1, Data), (7, Witness)]);
        for (there, expected) in [
            (&[(0, Data), (1, Data), (7, Data)][..], ": member 7 is data there, but witness here"),
            (&[(0, Data), (1, Data)], ": member 7 is only in this list"),
            (&[(0, Data), (1, Data), (2, Data), (7, Witness)], ": member 2 (data) is missing from this list"),
            (&[(0, Data), (1, Data), (8, Witness)], ": that list has member 8 (witness) instead of member 7"),
            (&[(5, Data), (6, Data), (8, Witness)], ""),
        ] {
            let other = fingerprint_of("demo", of(there).into_iter());
            assert_eq!(difference("demo", &here, other), expected);
        }
    }
}
