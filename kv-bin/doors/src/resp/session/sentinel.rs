//! `SENTINEL`: every door also answers as a Redis Sentinel, so that clients can find the primary through it. The
//! cluster itself needs no Sentinel.

use super::super::primary::Members;
use super::super::reply::Reply;
use super::Session;
use super::connection::unknown_subcommand;
use bytes::Bytes;

impl Session {
    pub(super) async fn sentinel(&self, request: &[Bytes]) -> Reply {
        let subcommand = request[1].to_ascii_uppercase();
        // A door serves one cluster, so every name means this cluster.
        let takes_name = !matches!(&subcommand[..], b"MASTERS" | b"MYID");
        let count = if takes_name { 3 } else { 2 };
        let is_known = matches!(
            &subcommand[..],
            b"GET-MASTER-ADDR-BY-NAME"
                | b"MASTERS"
                | b"MASTER"
                | b"REPLICAS"
                | b"SLAVES"
                | b"SENTINELS"
                | b"CKQUORUM"
                | b"MYID"
        );
        let shown = super::super::command::shown(&request[1]);
        if !is_known {
            return unknown_subcommand(&shown, "SENTINEL");
        }
        if request.len() != count {
            return super::super::command::wrong_count(&format!("sentinel|{}", shown.to_ascii_lowercase()));
        }
        if subcommand == *b"MYID" {
            return Reply::text(run_id(&format!("{}", self.entry.local)));
        }
        let members = self.door.members().await;
        match &subcommand[..] {
            b"GET-MASTER-ADDR-BY-NAME" => {
                let (host, port) = self.master(&members);
                Reply::Array(vec![Reply::text(host), Reply::text(port.to_string())])
            }
            b"MASTERS" => Reply::Array(vec![self.describe_master(&members)]),
            b"MASTER" => self.describe_master(&members),
            b"CKQUORUM" if members.answering > members.count / 2 => Reply::text(format!(
                "OK {} usable Sentinels. Quorum and failover authorization can be reached",
                members.answering
            )),
            b"CKQUORUM" => Reply::error(format!(
                "NOQUORUM {} of {} members answer, which is no majority",
                members.answering, members.count
            )),
            b"SENTINELS" => {
                Reply::Array(self.others(&members, None).map(|door| described(door, "sentinel")).collect())
            }
            _ => {
                let primary = members.primary;
                Reply::Array(self.others(&members, primary).map(|door| described(door, "slave")).collect())
            }
        }
    }

    /// The host and the port of the door at the primary. Any door serves every request, so if it is unknown, this door
    /// is as good.
    fn master(&self, members: &Members) -> (String, u16) {
        let door = members.primary.and_then(|primary| self.door.door_of(primary));
        door.unwrap_or_else(|| (self.entry.local.ip().to_string(), self.entry.local.port()))
    }

    /// The doors of the data members that answer, except the one at `primary` and this one.
    fn others<'a>(
        &'a self,
        members: &'a Members,
        primary: Option<u8>,
    ) -> impl Iterator<Item = (String, u16)> + 'a {
        let own = (self.entry.local.ip().to_string(), self.entry.local.port());
        let answering = members.data.iter().filter(|(_, answers)| *answers).map(|(id, _)| *id);
        let others = answering.filter(move |id| Some(*id) != primary).filter_map(|id| self.door.door_of(id));
        others.filter(move |door| primary.is_some() || *door != own)
    }

    fn describe_master(&self, members: &Members) -> Reply {
        let (host, port) = self.master(members);
        let flags = if members.primary.is_some() { "master" } else { "master,o_down" };
        let text = [
            ("name", self.door.options.master_name.clone()),
            ("ip", host.clone()),
            ("port", port.to_string()),
            ("runid", run_id(&format!("{host}:{port}"))),
            ("flags", flags.to_owned()),
            ("role-reported", "master".to_owned()),
            ("num-slaves", members.data.len().saturating_sub(1).to_string()),
            ("num-other-sentinels", members.count.saturating_sub(1).to_string()),
            ("quorum", (members.count / 2 + 1).to_string()),
        ];
        Reply::Map(text.into_iter().map(|(name, value)| (Reply::name(name), Reply::text(value))).collect())
    }
}

fn described((host, port): (String, u16), flags: &'static str) -> Reply {
    let text = [
        ("name", format!("{host}:{port}")),
        ("ip", host.clone()),
        ("port", port.to_string()),
        ("runid", run_id(&format!("{host}:{port}"))),
        ("flags", flags.to_owned()),
        ("master-link-status", "ok".to_owned()),
        ("slave-priority", "100".to_owned()),
    ];
    Reply::Map(text.into_iter().map(|(name, value)| (Reply::name(name), Reply::text(value))).collect())
}

/// 40 hexadecimal digits that depend only on the address (FNV-1a).
fn run_id(address: &str) -> String {
    let hash = |start: u64| {
        address.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    format!("{:016x}{:016x}{:08x}", hash(0xcbf2_9ce4_8422_2325), hash(1), hash(2) & 0xffff_ffff)
}
