//! Links with changing delays between members: a proxy for each pair and direction.

use crate::harness::{free_port, members};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Pieces that are on their way on one connection, in one direction. Then nothing more is read from it.
const ON_THE_WAY: usize = 1024;
/// What is read at once.
const PIECE: usize = 64 << 10;

/// How long what one member sends to another is on its way, in milliseconds.
type Delay = Arc<AtomicU64>;

/// The links of three members. Each of them sees the others at addresses of its own.
pub(crate) struct Links {
    delays: [[Delay; 3]; 3],
    /// The list of members that each is given.
    pub(crate) lists: Vec<String>,
    _proxies: JoinSet<()>,
}

impl Links {
    /// Links without delay to members that listen at these addresses.
    pub(crate) async fn between(roles: &[&str], addresses: &[String]) -> Self {
        let delays: [[Delay; 3]; 3] = Default::default();
        let (mut lists, mut proxies) = (Vec::new(), JoinSet::new());
        for (from, to_others) in delays.iter().enumerate() {
            let mut seen = addresses.to_vec();
            for to in (0..3).filter(|to| *to != from) {
                let listener = loop {
                    if let Ok(listener) = TcpListener::bind(("127.0.0.1", free_port())).await {
                        break listener;
                    }
                };
                seen[to] = listener.local_addr().unwrap().to_string();
                let (there, back) = (to_others[to].clone(), delays[to][from].clone());
                proxies.spawn(serve(listener, addresses[to].clone(), there, back));
            }
            lists.push(members(roles, &seen));
        }
        Self { delays, lists, _proxies: proxies }
    }

    /// What `from` sends to `to` is on its way for so long from now on. It stays in order.
    pub(crate) fn delay(&self, from: usize, to: usize, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).expect("a short time");
        self.delays[from][to].store(ms, Ordering::Relaxed);
    }

    /// Nothing is delayed any more.
    pub(crate) fn heal(&self) {
        self.delays.iter().flatten().for_each(|delay| delay.store(0, Ordering::Relaxed));
    }
}

/// Carries every connection on.
async fn serve(listener: TcpListener, target: String, there: Delay, back: Delay) {
    let mut connections = JoinSet::new();
    loop {
        // Those that have ended are forgotten.
        while connections.try_join_next().is_some() {}
        let Ok((near, _)) = listener.accept().await else { continue };
        let (target, there, back) = (target.clone(), there.clone(), back.clone());
        connections.spawn(async move {
            // Nobody listens there: it is closed.
            let Ok(far) = TcpStream::connect(target).await else { return };
            if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
                return;
            }
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            tokio::join!(carry(near_read, far_write, there), carry(far_read, near_write, back));
        });
    }
}

/// Forwards one direction of a connection in order, each piece after the delay at the time of its arrival.
async fn carry(from: OwnedReadHalf, to: OwnedWriteHalf, delay: Delay) {
    let (sender, receiver) = mpsc::channel(ON_THE_WAY);
    tokio::join!(take(from, sender, delay), hand_on(to, receiver));
}

async fn take(mut from: OwnedReadHalf, sender: mpsc::Sender<(Instant, Vec<u8>)>, delay: Delay) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let at = Instant::now() + Duration::from_millis(delay.load(Ordering::Relaxed));
        if sender.send((at, buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn hand_on(mut to: OwnedWriteHalf, mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((at, piece)) = receiver.recv().await {
        sleep_until(at).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    // What was read has been handed on: this end is closed, as the other was.
    let _ = to.shutdown().await;
}
