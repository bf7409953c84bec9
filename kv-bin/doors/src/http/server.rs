//! The server: it accepts connections.

use super::HttpOptions;
use super::activity::Activity;
use super::door::Door;
use super::respond::Response;
use super::routes;
use super::stream::Stream;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use kv_core::{Client, Node};
use socket2::{SockRef, TcpKeepalive};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long the server waits after it could not accept a connection, for example because too many files are open.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the server reads on after it has closed a connection, so that the client gets the last answer.
const LINGER: Duration = Duration::from_secs(2);
/// How many more connections are served if all have requests. They serve only the pages that are answered at once, so
/// that the programs that watch the member do not take it for dead because its clients wait for something.
const SPARE: usize = 32;
/// How many headers a request may have.
const MAX_HEADERS: usize = 64;
/// The most bytes that are read of a connection before they are used. hyper needs at least 8 KiB.
const MIN_HEAD_BYTES: usize = 8 << 10;
/// How long a connection may be silent before its client is asked whether it is still there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Serves HTTP on `listener`, with calls of `client`. Runs until the future is dropped, which also closes all
/// connections. Anyone who can reach the listener can read and write everything, unless the options say that only pages
/// are served.
///
/// `node` is the member that the pages describe. Without it, only `/livez` is there, and answers do not name a member.
///
/// # Errors
/// If the address of the listener cannot be determined. Errors of single connections are logged at the level `debug`.
///
/// # Cancel safety
/// Dropping the future closes the connections. A request that runs at this time may have taken effect, or may still do
/// so.
pub async fn serve(
    listener: TcpListener,
    client: Client,
    node: Option<Arc<Node>>,
    options: HttpOptions,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "serving HTTP");
    let door = Arc::new(Door::new(client, node, options));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => accept(&door, stream, &mut connections),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection of a client has ended by a fault of this program");
                }
            }
        }
    }
}

fn accept(door: &Arc<Door>, mut stream: TcpStream, connections: &mut JoinSet<()>) {
    let (open, most) = (door.connections.len(), door.options.max_connections);
    let is_spare = open >= most && !door.connections.make_room();
    if is_spare && open >= most.saturating_add(SPARE) {
        // The socket's buffer is empty, so this does not wait; the client is not owed more than an attempt.
        connections.spawn(async move {
            let body = r#"{"error":"too many connections","code":8,"message":"too many connections"}"#;
            let answer = format!(
                "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = timeout(PAUSE, stream.write_all(answer.as_bytes())).await;
        });
        return;
    }
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, "cannot set the options of a connection");
    }
    let run = run(door, stream, is_spare);
    connections.spawn(async move {
        if let Err(error) = run.await {
            tracing::debug!(%error, "the connection of a client has failed");
        }
    });
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A watch may have nothing to send for a long time.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Serves one connection until it ends. It counts as open from the call on. One that `is_spare` serves one request, and
/// only for a page that is answered at once.
pub(super) fn run<S>(
    door: &Arc<Door>,
    stream: S,
    is_spare: bool,
) -> impl Future<Output = Result<(), hyper::Error>> + Send + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::new(&door.options);
    let open = door.connections.add(activity.clone());
    let door = door.clone();
    async move {
        let _open = open;
        run_open(&door, &activity, stream, is_spare).await
    }
}

async fn run_open<S>(
    door: &Arc<Door>,
    activity: &Arc<Activity>,
    mut stream: S,
    is_spare: bool,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (door, busy) = (door.clone(), activity.begin());
        async move {
            let mut response: Response = routes::answer(&door, request, &busy, is_spare).await;
            response.body_mut().hold(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(door.options.max_head_bytes.max(MIN_HEAD_BYTES))
        .max_headers(MAX_HEADERS)
        .keep_alive(!is_spare)
        // `Activity` does more than this.
        .header_read_timeout(None);
    let io = Stream { inner: &mut stream, activity: activity.clone() };
    let connection = builder.serve_connection(io, service).without_shutdown();
    let ended = tokio::select! {
        ended = connection => ended.map(drop),
        why = activity.expired() => {
            tracing::debug!(why, "closed the connection of a client");
            return Ok(());
        }
    };
    linger(stream).await;
    ended
}

/// Ends a connection whose client may still be sending. If it was closed at once, the client's system would drop the
/// last answer.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let drain = async {
        stream.shutdown().await?;
        let mut bytes = [0; 4096];
        while stream.read(&mut bytes).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the client has closed the connection or not: it ends here.
    let _ = timeout(LINGER, drain).await;
}
