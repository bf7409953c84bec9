//! The hello: who is calling, which cluster it expects, and whether the two ends match.

use crate::config::{FixedOptions, OptionMismatch, Role};
use crate::ids::{ClusterId, Epoch, Hash, MemberId};
use crate::message::SizeLimits;
use kv_transport::{Lane, Peer};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The protocol versions that this build speaks. Version 9 adds the messages about epochs, which are sent only after a
/// change of the member list.
pub const PROTOCOL: VersionRange = VersionRange { min: 8, max: 9 };

/// Where the epoch stands in the features of a welcome.
const EPOCH_BITS: u32 = 32;

/// The first version of the protocol with the messages about epochs.
pub const FIRST_WITH_EPOCHS: u16 = 9;

/// The feature of a member whose member list has been changed: its fingerprint is that of the cluster's history.
const CHANGED: u64 = 1;

/// A range of protocol versions, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl VersionRange {
    /// Only this version.
    #[must_use]
    pub const fn just(version: u16) -> Self {
        Self { min: version, max: version }
    }

    /// The newest version in both ranges.
    #[must_use]
    pub const fn common(self, other: Self) -> Option<u16> {
        let min = if self.min > other.min { self.min } else { other.min };
        let max = if self.max < other.max { self.max } else { other.max };
        if min <= max { Some(max) } else { None }
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// The first frame on a connection, from the end that opened it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The versions that the caller speaks. They come first in every version of the protocol.
    pub protocol: VersionRange,
    /// The cluster that the caller expects.
    pub cluster: ClusterId,
    /// The lane of this connection.
    #[serde(with = "lane_code")]
    pub lane: Lane,
    /// Optional features, one bit each. Unknown ones are ignored.
    pub features: u64,
    /// Who it is.
    pub caller: Caller,
}

/// The sender of a hello.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Caller {
    /// Another member.
    Member {
        id: MemberId,
        /// The member that it expects to call.
        to: MemberId,
        /// The hash of its member list: name, ids and roles.
        fingerprint: Hash,
        /// Its options that are fixed when the cluster forms (rule F6).
        options: FixedOptions,
        /// Drawn at random when its process started. If two values alternate, two processes run under one id.
        life: u64,
    },
    Client {
        /// A name for logs. It proves nothing.
        name: String,
    },
}

impl Hello {
    /// A client's hello.
    #[must_use]
    pub fn client(cluster: ClusterId, name: impl Into<String>) -> Self {
        let caller = Caller::Client { name: name.into() };
        Self { protocol: PROTOCOL, cluster, lane: Lane::Client, features: 0, caller }
    }

    /// The hello of a member on one of the members' lanes.
    #[must_use]
    pub fn member(expectation: &Expectation, to: MemberId, lane: Lane) -> Self {
        let me = expectation.me;
        let caller = Caller::Member {
            id: me,
            to,
            fingerprint: expectation.fingerprint,
            options: expectation.options.clone(),
            life: expectation.life,
        };
        let cluster = ClusterId::of_name(&expectation.cluster);
        let features = if expectation.is_changed() { CHANGED } else { 0 };
        Self { protocol: PROTOCOL, cluster, lane, features, caller }
    }
}

/// The first frame on a connection from the end that accepted it. In every version of the protocol it begins with one
/// byte: 0 for [`Ok`](Self::Ok), followed by the chosen version, or 1 for [`Refused`](Self::Refused), whose layout
/// never changes. So each end can report why it cannot agree with an end of any other version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HelloReply {
    /// Go on.
    Ok(Welcome),
    /// The caller is refused. The connection is closed after this.
    Refused {
        /// What is wrong and what to do.
        reason: String,
        /// Whether trying again later may help.
        temporary: bool,
    },
}

impl From<&Refusal> for HelloReply {
    fn from(refusal: &Refusal) -> Self {
        Self::Refused { reason: refusal.to_string(), temporary: refusal.is_temporary() }
    }
}

/// What an accepted caller receives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The version of the protocol that both ends use from now on.
    pub protocol: u16,
    /// Optional features that both ends have, in the lower half. The upper half is the epoch of the member list, which
    /// is 0 for members that know of none.
    pub features: u64,
    /// Who answers.
    pub member: MemberId,
    pub members: Vec<MemberInfo>,
    /// The limits of requests.
    pub limits: Limits,
}

impl Welcome {
    /// The epoch of the member list: a client keeps the newest.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.features >> EPOCH_BITS
    }
}

/// A member, as it is announced to callers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberInfo {
    pub id: MemberId,
    /// The address at which it is reached.
    pub address: String,
    /// What it keeps.
    pub role: Role,
}

impl MemberInfo {
    /// Returns whether it holds data and can be primary.
    #[must_use]
    pub fn holds_data(&self) -> bool {
        self.role == Role::Data
    }
}

/// The limits that a client must respect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// The largest key in bytes.
    pub max_key_bytes: u32,
    /// The largest value in bytes.
    pub max_value_bytes: u32,
    /// The most requests in flight in a session.
    pub max_in_flight_per_session: u32,
    /// How long a session may be silent before it expires.
    pub session_ttl: Duration,
    /// How long a connection may be silent before it is closed.
    pub client_idle_timeout: Duration,
}

impl Limits {
    /// The limits of keys and values.
    #[must_use]
    pub const fn sizes(&self) -> SizeLimits {
        SizeLimits {
            max_key_bytes: self.max_key_bytes as usize,
            max_value_bytes: self.max_value_bytes as usize,
        }
    }
}

/// What a member checks callers against.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expectation {
    /// The cluster's name.
    pub cluster: String,
    /// The id of this member.
    pub me: MemberId,
    pub members: Vec<MemberInfo>,
    /// The hash of the member list: name, ids and roles. After a change of the list, that of the cluster's history.
    pub fingerprint: Hash,
    /// The epoch of the member list.
    pub epoch: Epoch,
    /// The members that the last change removed.
    pub former: Vec<MemberId>,
    /// The options that are fixed when the cluster forms.
    pub options: FixedOptions,
    /// The limits for clients.
    pub limits: Limits,
    /// Identifies this process of the member: see [`Caller::Member`].
    pub life: u64,
    /// Whether the transport authenticates the other ends. If so, an unauthenticated caller is refused.
    pub authenticated: bool,
}

/// Why a caller is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The ends have no version in common.
    #[error("you speak protocol versions {theirs}, member {me} speaks {PROTOCOL}: upgrade the older one")]
    Version {
        /// The id of this member.
        me: MemberId,
        /// What the caller speaks.
        theirs: VersionRange,
    },
    /// The caller expects another cluster.
    #[error(
        "this is member {me} of cluster {cluster:?}, you asked for another: check cluster name and address"
    )]
    Cluster {
        /// The id of this member.
        me: MemberId,
        /// The cluster that it belongs to.
        cluster: String,
    },
    /// The lanes of the transport and of the hello differ, or the lane is not for such callers.
    #[error("this kind of caller may not use lane {lane:?}")]
    Lane { lane: Lane },
    /// The caller expects another member.
    #[error("this is member {me}, you asked for member {wanted}: check the addresses in the configuration")]
    OtherMember {
        /// The id of this member.
        me: MemberId,
        /// The member that the caller expects.
        wanted: MemberId,
    },
    /// The caller is not one of the other members.
    #[error(
        "member {id} is not a peer of member {me}: check the ids in the configuration, and whether it was added or removed"
    )]
    NotAPeer {
        /// The id of this member.
        me: MemberId,
        /// The id of the caller.
        id: MemberId,
    },
    /// The member lists differ.
    #[error(
        "the member list of member {id} differs from that of member {me}: give all members the same ids and roles \
         (addresses may differ)"
    )]
    Configuration {
        /// The id of this member.
        me: MemberId,
        /// The id of the caller.
        id: MemberId,
    },
    /// The histories differ.
    #[error(
        "member {id} belongs to another cluster than member {me}, which was formed with the same name: check the addresses"
    )]
    OtherHistory {
        /// The id of this member.
        me: MemberId,
        /// The id of the caller.
        id: MemberId,
    },
    /// A fixed option differs.
    #[error(
        "member {id} has {option} {theirs}, member {me} has {ours}: it is fixed when the cluster forms, set it to the same \
         value on all members"
    )]
    OtherOption {
        /// The id of this member.
        me: MemberId,
        /// The id of the caller.
        id: MemberId,
        /// The name of the option.
        option: &'static str,
        /// Its value at the caller.
        theirs: String,
        /// The value here.
        ours: String,
    },
    /// The certificate contradicts the hello.
    #[error("your certificate is for {certificate}, your hello claims {hello}")]
    Identity {
        /// The identity that the transport authenticated.
        certificate: String,
        /// The identity that the hello claims.
        hello: String,
    },
    /// A certificate is required, and the caller has none.
    #[error("member {me} requires a certificate, and you sent none")]
    Unauthenticated {
        /// The id of this member.
        me: MemberId,
    },
    /// The certificate belongs to a member that is not in the configuration.
    #[error(
        "your certificate is for member {id}, which is not in the member list of member {me}: it was not added yet \
         (kv member add), it was removed, or the configurations differ"
    )]
    Removed {
        /// The id of this member.
        me: MemberId,
        /// The member in the certificate.
        id: MemberId,
    },
    /// The client is not on the list of clients.
    #[error(
        "client {name:?} is not on the list of clients of member {me}: put the name on the list, or use another certificate"
    )]
    NotListed {
        /// The id of this member.
        me: MemberId,
        /// The name in the client's certificate.
        name: String,
    },
    /// Full.
    #[error("member {me} has too many connections: try again later or raise max_connections")]
    TooManyConnections {
        /// The id of this member.
        me: MemberId,
    },
    /// Going away.
    #[error("member {me} is shutting down")]
    ShuttingDown {
        /// The id of this member.
        me: MemberId,
    },
}

impl Refusal {
    /// Returns whether the same caller may be accepted later.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::TooManyConnections { .. } | Self::ShuttingDown { .. })
    }
}

impl Expectation {
    /// Whether the member list has been changed.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.epoch > Epoch::ZERO
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<&MemberInfo> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Checks whether the caller is accepted. `lane` and `peer` are what the transport knows about the connection.
    ///
    /// # Errors
    /// [`Refusal`] is the reason, which is sent to the caller.
    pub fn check(&self, hello: &Hello, lane: Lane, peer: &Peer) -> Result<Welcome, Refusal> {
        let me = self.me;
        let theirs = hello.protocol;
        let protocol = PROTOCOL.common(theirs).ok_or(Refusal::Version { me, theirs })?;
        if hello.cluster != ClusterId::of_name(&self.cluster) {
            return Err(Refusal::Cluster { me, cluster: self.cluster.clone() });
        }
        let for_client = matches!(hello.caller, Caller::Client { .. });
        if hello.lane != lane || for_client != (lane == Lane::Client) {
            return Err(Refusal::Lane { lane });
        }
        let theirs_changed = hello.features & CHANGED != 0;
        let is_changed = self.is_changed() || theirs_changed;
        if is_changed && protocol < FIRST_WITH_EPOCHS && !for_client {
            return Err(Refusal::Version { me, theirs });
        }
        self.judge_identity(&hello.caller, peer, is_changed)?;
        if let Caller::Member { id, to, fingerprint, ref options, .. } = hello.caller {
            if to != me {
                return Err(Refusal::OtherMember { me, wanted: to });
            }
            // A member that has missed a change is told of it. One that was removed may lack, or be the only one that
            // has, what the epoch before has committed.
            let is_heard = match self.member(id) {
                Some(_) => true,
                None if self.former.contains(&id) => lane != Lane::Log,
                None => is_changed && lane == Lane::Control,
            };
            if id == me || !is_heard {
                return Err(Refusal::NotAPeer { me, id });
            }
            if let Err(OptionMismatch { option, formed: ours, found: theirs }) = self.options.check(options) {
                return Err(Refusal::OtherOption { me, id, option, theirs, ours });
            }
            // If only one of the two has changed, the other one lacks a change, or has another history. Its log shows
            // it.
            if theirs_changed == self.is_changed() && fingerprint != self.fingerprint {
                return Err(match is_changed {
                    true => Refusal::OtherHistory { me, id },
                    false => Refusal::Configuration { me, id },
                });
            }
        }
        let features = u64::from(self.epoch.get()) << EPOCH_BITS;
        Ok(Welcome { protocol, features, member: me, members: self.members.clone(), limits: self.limits })
    }
}

/// Lanes as numbers.
mod lane_code {
    use kv_transport::Lane;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(lane: &Lane, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(lane.code())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lane, D::Error> {
        Lane::of_code(u8::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("no such lane"))
    }
}
