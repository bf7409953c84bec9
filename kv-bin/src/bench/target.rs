//! The cluster under load: a running one, or one that is started for the measurement.

use super::args::LoadTestArgs;
use super::process::{Process, Taken};
use crate::context;
use crate::demo::members::{DemoPlan, Members};
use crate::demo::watch as cluster;
use crate::failure::Failure;
use kv_core::Client;

/// See the module.
#[derive(Debug)]
pub(super) enum Target {
    /// A running cluster.
    Running,
    /// Members that end with this.
    Spawned(Box<Members>),
}

/// What the processes of a spawned cluster had used at some time.
#[derive(Debug)]
pub(super) struct Usage {
    /// The id, the CPU time and the bytes written of each member.
    members: Vec<(u8, Taken, u64)>,
    own: Option<Taken>,
}

/// What a process used per operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// The id of the member.
    pub(super) member: u8,
    pub(super) cpu_us: f64,
    pub(super) written: f64,
}

impl Target {
    pub(super) async fn start(args: &LoadTestArgs) -> Result<Self, Failure> {
        let Some(members) = args.spawn else { return Ok(Self::Running) };
        let transport = args.connect.transport.unwrap_or_default();
        let plan = DemoPlan { members, transport, tls: false, seed: 1, loss: 0, log: None };
        Ok(Self::Spawned(Box::new(Members::start(&plan).await?)))
    }

    /// Connects this many clients, and waits until the cluster serves.
    pub(super) async fn connect(&self, args: &LoadTestArgs, count: u32) -> Result<Vec<Client>, Failure> {
        let mut clients = Vec::new();
        match self {
            Self::Running => {
                for _ in 0..count {
                    clients.push(context::connect(&args.connect).await?);
                }
            }
            Self::Spawned(members) => {
                clients = cluster::connect(members, &members.transport()?, 1, count as usize).await?;
                cluster::formed(&clients[0], members.addresses().len()).await?;
            }
        }
        Ok(clients)
    }

    /// What is used until now; `None` where that cannot be seen.
    pub(super) fn usage(&self) -> Option<Usage> {
        let Self::Spawned(members) = self else { return None };
        let mut all = Vec::new();
        for id in 0..u8::try_from(members.addresses().len()).ok()? {
            let process = Process(members.pid(id)?);
            all.push((id, process.taken().ok()?, process.written().ok()?));
        }
        Some(Usage { members: all, own: Process(std::process::id()).taken().ok() })
    }
}

impl Usage {
    /// What each member used per operation since then, and this process.
    pub(super) fn per_operation(&self, now: &Self, operations: u64) -> (Vec<Cost>, Option<f64>) {
        let each = |seconds: f64| seconds * 1e6 / operations.max(1) as f64;
        let both = self.members.iter().zip(&now.members);
        let members = both.map(|((member, cpu, written), (_, cpu_now, written_now))| Cost {
            member: *member,
            cpu_us: each(cpu_now.seconds_since(*cpu)),
            written: written_now.saturating_sub(*written) as f64 / operations.max(1) as f64,
        });
        let own = self.own.zip(now.own).map(|(before, now)| each(now.seconds_since(before)));
        (members.collect(), own)
    }
}
