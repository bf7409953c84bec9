//! The pages, through real connections to the members of a real cluster.

use super::PATHS;
use crate::http::{self, HttpOptions};
use kv_core::config::Options;
use kv_core::transport::Memory;
use kv_core::{Client, Cluster, Node};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a test waits for anything.
const WITHIN: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["a:1", "b:1", "<c>:1"];

/// Three members, each with a door.
struct Members {
    network: Memory,
    cluster: Cluster,
    folders: Vec<TempDir>,
    nodes: Vec<Option<Arc<Node>>>,
    doors: Vec<String>,
    serving: Vec<JoinSet<()>>,
}

impl Members {
    /// Members that do not run yet.
    fn new() -> Self {
        let cluster = (0..).zip(NAMES).fold(Cluster::builder("te<st"), |it, (id, name)| it.member(id, name));
        Self {
            network: Memory::new(),
            cluster: cluster.build().unwrap(),
            folders: NAMES.map(|_| tempfile::tempdir().unwrap()).into(),
            nodes: vec![None; NAMES.len()],
            doors: vec![String::new(); NAMES.len()],
            serving: NAMES.map(|_| JoinSet::new()).into(),
        }
    }

    async fn started() -> Self {
        let mut members = Self::new();
        for member in 0..NAMES.len() {
            members.start(member).await;
        }
        for node in members.nodes.iter().flatten() {
            timeout(WITHIN, node.wait_formed()).await.unwrap().unwrap();
        }
        members
    }

    async fn start(&mut self, member: usize) {
        let id = u8::try_from(member).unwrap();
        let options = Options::default();
        let node = Node::builder(self.cluster.clone(), id)
            .transport(self.network.clone())
            .data_dir(self.folders[member].path())
            .options(options);
        let node = Arc::new(node.start().await.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.doors[member] = listener.local_addr().unwrap().to_string();
        let mut options = HttpOptions::default();
        self.cluster.name().clone_into(&mut options.cluster);
        let serve = http::serve(listener, node.client(), Some(node.clone()), options);
        self.serving[member].spawn(async move { serve.await.unwrap() });
        self.nodes[member] = Some(node);
    }

    /// Stops a member at once. Its door ends with it.
    async fn kill(&mut self, member: usize) {
        self.serving[member].shutdown().await;
        let node = self.nodes[member].take().unwrap();
        // A connection that has just ended may still hold it.
        let mut node = Some(node);
        eventually("the last holder", async || match Arc::try_unwrap(node.take().unwrap()) {
            Ok(_) => true,
            Err(held) => {
                node = Some(held);
                false
            }
        })
        .await;
    }

    async fn get(&self, member: usize, path: &str) -> Answer {
        get(&self.doors[member], path).await
    }

    fn client(&self, member: usize) -> Client {
        self.nodes[member].as_ref().unwrap().client()
    }

    async fn primary(&self) -> usize {
        let mut found = None;
        eventually("a primary", async || {
            for member in (0..NAMES.len()).filter(|member| self.nodes[*member].is_some()) {
                if self.get(member, "/primary").await.status == 200 {
                    found = Some(member);
                }
            }
            found.is_some()
        })
        .await;
        found.unwrap()
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn value(&self, line: &str) -> f64 {
        let found = self.body.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("{line} is missing: {}", self.body)).parse().unwrap()
    }
}

async fn get(door: &str, path: &str) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(door).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {door}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(WITHIN, exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(WITHIN, wait).await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn probes_tell_which_member_is_ready_and_which_is_the_primary() {
    let mut members = Members::started().await;
    for member in 0..NAMES.len() {
        let live = members.get(member, "/livez").await;
        assert_eq!((live.status, live.body.as_str()), (200, "ok\n"));
        eventually("a member that is ready", async || members.get(member, "/readyz").await.status == 200)
            .await;
    }
    let mut primary = 0;
    eventually("one primary that all know", async || {
        primary = members.primary().await;
        let mut agree = true;
        for member in (0..NAMES.len()).filter(|member| *member != primary) {
            let found = members.get(member, "/primary").await;
            agree &= (found.status, found.body) == (503, format!("member {primary} is the primary\n"));
        }
        agree
    })
    .await;
    // Without a quorum, a member runs and is not ready.
    let last = (primary + 1) % NAMES.len();
    for member in (0..NAMES.len()).filter(|member| *member != last) {
        members.kill(member).await;
    }
    eventually("no primary", async || members.get(last, "/readyz").await.status == 503).await;
    let ready = members.get(last, "/readyz").await;
    assert!(ready.body.contains("primary"), "it says why: {ready:?}");
    assert_eq!(members.get(last, "/livez").await.status, 200);
    assert_eq!(members.get(last, "/primary").await.status, 503);
    assert_eq!(members.get(last, "/metrics").await.value("kv_has_primary"), 0.0);
    // After a restart, it knows whose view it was in, but that primary has not been heard.
    members.kill(last).await;
    members.start(last).await;
    let ready = members.get(last, "/readyz").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    assert_eq!(members.get(last, "/metrics").await.value("kv_state{state=\"backup\"}"), 0.0);
}

/// Nothing updates the status of a member that has stopped or hangs, so its last status does not count.
#[tokio::test]
async fn a_member_that_does_not_respond_is_neither_ready_nor_the_primary() {
    let members = Members::started().await;
    eventually("a member that is ready", async || members.get(0, "/readyz").await.status == 200).await;
    members.nodes[0].as_ref().unwrap().shutdown().await;
    for path in ["/livez", "/readyz", "/primary"] {
        let found = members.get(0, path).await;
        assert!(found.status == 503 && found.body.contains("does not respond"), "{path} {found:?}");
    }
}

#[tokio::test]
async fn a_member_that_waits_for_others_is_alive_and_not_ready() {
    let mut members = Members::new();
    members.start(0).await;
    assert_eq!(members.get(0, "/livez").await.status, 200);
    let ready = members.get(0, "/readyz").await;
    assert!(ready.status == 503 && ready.body.starts_with("forming"), "{ready:?}");
    eventually("a page that says so", async || {
        let page = members.get(0, "/").await;
        page.status == 200 && page.body.contains("is forming")
    })
    .await;
}

#[tokio::test]
async fn the_metrics_are_those_of_the_member() {
    let members = Members::started().await;
    let primary = members.primary().await;
    let client = members.client(primary);
    for _ in 0..5 {
        client.put("key", "value").await.unwrap();
        client.get("key").await.unwrap();
    }
    let found = members.get(primary, "/metrics").await;
    assert!(found.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", found.head);
    let info = format!("kv_info{{cluster=\"te<st\",member=\"{primary}\",role=\"data\",version=\"");
    assert!(found.body.contains(&info), "{}", found.body);
    assert_eq!(found.value("kv_has_primary"), 1.0);
    assert_eq!(found.value("kv_state{state=\"primary\"}"), 1.0);
    assert_eq!(found.value("kv_state{state=\"backup\"}"), 0.0);
    assert!(found.value("kv_requests_total{kind=\"write\",outcome=\"done\"}") >= 5.0);
    assert!(found.value("kv_request_duration_seconds_count{kind=\"read\"}") >= 5.0);
    assert!(found.value("kv_commit_duration_seconds_sum") > 0.0);
    assert!(found.value("kv_journal_bytes") > 0.0);
    let other = (primary + 1) % NAMES.len();
    eventually("a connection", async || {
        members.get(primary, "/metrics").await.value(&format!("kv_peer_connected{{peer=\"{other}\"}}")) == 1.0
    })
    .await;
    eventually("an answer", async || {
        members.get(primary, "/metrics").await.value(&format!("kv_peer_alive{{peer=\"{other}\"}}")) == 1.0
    })
    .await;
    check_format(&members.get(primary, "/metrics").await.body);
}

/// Every sample belongs to the metric above it, every metric is there once and has a help text and a type, and the
/// buckets of a histogram only grow.
fn check_format(text: &str) {
    let (mut names, mut family, mut kind) = (Vec::new(), "", "");
    let mut buckets: (String, f64) = (String::new(), 0.0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!names.contains(&name) && help.ends_with('.'), "{line}");
            names.push(name);
            family = name;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').unwrap();
            assert!(name == family && ["gauge", "counter", "histogram"].contains(&of), "{line}");
            assert_eq!(of == "counter", name.ends_with("_total"), "{line}");
            kind = of;
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            let name = sample.split('{').next().unwrap();
            let ending = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} below {family}"));
            let endings: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(endings.contains(&ending), "{line} below {family}");
            if let Some((series, _)) = sample.split_once("le=\"").filter(|_| ending == "_bucket") {
                let before = if buckets.0 == series { buckets.1 } else { 0.0 };
                assert!(value >= before, "{line}");
                buckets = (series.to_owned(), value);
            }
        }
    }
    assert!(names.len() > 20, "{names:?}");
}

#[tokio::test]
async fn the_status_is_that_of_all_members() {
    let mut members = Members::started().await;
    let primary = members.primary().await;
    let status = async |members: &Members, at| -> serde_json::Value {
        serde_json::from_str(&members.get(at, "/status").await.body).unwrap()
    };
    eventually("all members agree", async || {
        let found = status(&members, 0).await;
        let all = found["members"].as_array().unwrap();
        assert!(all.len() == NAMES.len() && all.iter().all(|it| it["address"].is_string()), "{found}");
        all[primary]["state"] == "primary" && all.iter().all(|it| it["primary"] == primary)
    })
    .await;

    let lost = (primary + 1) % NAMES.len();
    members.kill(lost).await;
    eventually("an error instead of a status", async || {
        status(&members, primary).await["members"][lost]["error"].is_string()
    })
    .await;
}

#[tokio::test]
async fn the_status_page_is_complete_without_scripts_and_other_sites() {
    let mut members = Members::started().await;
    let primary = members.primary().await;
    members.client(0).put("key", "value").await.unwrap();
    eventually("a page with all members", async || {
        members.get(primary, "/").await.body.contains("All 3 members work")
    })
    .await;
    let found = members.get(primary, "/").await;
    assert_eq!(found.status, 200);
    for text in ["te&lt;st", "&lt;c&gt;:1", "Journal sync", &format!("member {primary}")] {
        assert!(found.body.contains(text), "{text} is missing: {}", found.body);
    }
    assert!(!found.body.contains("<c>") && !found.body.contains("{{"), "{}", found.body);
    assert!(!found.body.contains("://"), "no requests to other sites: {}", found.body);
    assert!(!found.body.contains(" style=") && !found.body.contains(" onclick="), "the policy forbids both");
    let policy = found.head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
    let nonce = |head: &str| {
        let (_, rest) = head.split_once("'nonce-").unwrap();
        rest.split_once('\'').unwrap().0.to_owned()
    };
    let this = nonce(policy);
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(found.body.matches(&format!("nonce=\"{this}\"")).count(), 2, "the style and the script");
    assert_ne!(nonce(&members.get(primary, "/").await.head), this, "each page has its own");

    let lost = (primary + 1) % NAMES.len();
    members.kill(lost).await;
    eventually("the loss of a member", async || {
        let page = members.get(primary, "/").await.body;
        page.contains("one more failure stops the cluster") && page.contains("No answer:")
    })
    .await;
}

/// All pages are listed where a wrong path is answered.
#[tokio::test]
async fn a_page_is_at_every_path() {
    let members = Members::started().await;
    let wrong = members.get(0, "/nothing").await;
    for path in PATHS {
        assert_ne!(members.get(0, path).await.status, 404, "{path}");
        assert!(wrong.body.contains(path), "{wrong:?}");
    }
    assert_eq!(wrong.status, 404);
}

#[tokio::test]
async fn a_door_without_a_member_says_so() {
    let members = Members::started().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let door = listener.local_addr().unwrap().to_string();
    let mut serving = JoinSet::new();
    let serve = http::serve(listener, members.client(0), None, HttpOptions::default());
    serving.spawn(async move { serve.await.unwrap() });
    for path in ["/readyz", "/primary", "/metrics"] {
        let found = get(&door, path).await;
        assert!(found.status == 503 && found.body.contains("no member runs"), "{found:?}");
    }
    for path in ["/livez", "/status", "/"] {
        assert_eq!(get(&door, path).await.status, 200, "{path}");
    }
}
