//! Which identity a caller may claim, given what the transport knows about it.

use super::hello::{Caller, Expectation, Refusal};
use crate::ids::MemberId;
use kv_transport::Peer;

impl Expectation {
    /// Checks that the caller is the one that its hello names, and may connect at all.
    pub(super) fn judge_identity(
        &self,
        caller: &Caller,
        peer: &Peer,
        is_changed: bool,
    ) -> Result<(), Refusal> {
        let me = self.me;
        let is_proved = match (peer, caller) {
            (Peer::Unauthenticated, _) if self.authenticated => return Err(Refusal::Unauthenticated { me }),
            (Peer::Unauthenticated, _) => true,
            (Peer::Member { cluster, id: proved }, _) if *cluster == self.cluster => {
                let proved = MemberId::new(*proved);
                let is_client = matches!(caller, Caller::Client { .. });
                if self.member(proved).is_none() && (is_client || !is_changed) {
                    return Err(Refusal::Removed { me, id: proved });
                }
                match caller {
                    Caller::Member { id, .. } => *id == proved,
                    // A member is trusted more than a client: its own tools may act as clients.
                    Caller::Client { .. } => self.member(proved).is_some(),
                }
            }
            (Peer::Client { cluster, .. }, Caller::Client { .. }) => *cluster == self.cluster,
            _ => false,
        };
        if is_proved {
            return Ok(());
        }
        let hello = match caller {
            Caller::Member { id, .. } => format!("member {id} of {:?}", self.cluster),
            Caller::Client { .. } => format!("a client of {:?}", self.cluster),
        };
        Err(Refusal::Identity { certificate: describe(peer), hello })
    }
}

/// The other end, as messages refer to it.
#[must_use]
pub fn describe(peer: &Peer) -> String {
    match peer {
        Peer::Unauthenticated => "nobody known".to_owned(),
        Peer::Member { cluster, id } => format!("member {id} of {cluster:?}"),
        Peer::Client { cluster, name } => format!("client {name:?} of {cluster:?}"),
        _ => "an unknown kind of peer".to_owned(),
    }
}

/// Checks that the other end of a connection to a member proves to be a member of `cluster`: member `id`, or any if
/// that is not known yet. If this end has a certificate, the other end must have one too.
///
/// # Errors
/// Who is there instead, and what to do.
pub fn prove_member(own: &Peer, peer: &Peer, cluster: &str, id: Option<MemberId>) -> Result<(), String> {
    let is_proved = match peer {
        Peer::Unauthenticated => *own == Peer::Unauthenticated,
        Peer::Member { cluster: theirs, id: proved } => {
            theirs == cluster && id.is_none_or(|id| id.get() == *proved)
        }
        _ => false,
    };
    if is_proved {
        return Ok(());
    }
    let wanted = id.map_or_else(|| "a member".to_owned(), |id| format!("member {id}"));
    Err(format!(
        "its certificate is of {}, and {wanted} of {cluster:?} should be there: check the address, and its certificate",
        describe(peer)
    ))
}
