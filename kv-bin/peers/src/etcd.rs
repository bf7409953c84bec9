//! etcd: `Put` and linearizable `Range` of its gRPC interface, over one HTTP/2 connection for each client. The few
//! messages are encoded by hand, so that nothing has to be generated from etcd's protocol files.

use crate::load::Store;
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use kv_peers::Result;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::sleep;

pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    authority: String,
}

fn varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// A field of bytes.
fn field(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    out.put_u8(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// The fields of a message: their numbers, and their numeric value or bytes.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, u64, &[u8])>> {
    fn number(bytes: &mut &[u8]) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = number(&mut bytes)?;
        match tag & 7 {
            0 => found.push((tag >> 3, number(&mut bytes)?, &[][..])),
            2 => {
                let length = usize::try_from(number(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                found.push((tag >> 3, 0, value));
            }
            _ => return None,
        }
    }
    Some(found)
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(async move {
            // Its end shows in the requests.
            let _ = connection.await;
        });
        Ok(Self { requests, authority: address.to_string() })
    }

    async fn call(&mut self, method: &str, message: &[u8]) -> Result<BytesMut> {
        let request = Request::post(format!("http://{}/etcdserverpb.{method}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        self.requests = self.requests.clone().ready().await?;
        let (response, mut body) = self.requests.send_request(request, false)?;
        let mut frame = BytesMut::with_capacity(message.len() + 5);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len())?);
        frame.put_slice(message);
        body.send_data(frame.freeze(), true)?;
        let mut response = response.await?.into_body();
        let mut received = BytesMut::new();
        while let Some(data) = response.data().await {
            let data = data?;
            response.flow_control().release_capacity(data.len())?;
            received.extend_from_slice(&data);
        }
        let trailers = response.trailers().await?.unwrap_or_default();
        match trailers.get("grpc-status").map(http::HeaderValue::as_bytes) {
            Some(b"0") if received.len() >= 5 => Ok(received.split_off(5)),
            status => Err(format!("etcd returned the status {status:?}").into()),
        }
    }
}

impl Store for Connection {
    async fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let mut message = BytesMut::with_capacity(key.len() + value.len() + 16);
        field(&mut message, 1, key.as_bytes());
        field(&mut message, 2, value);
        self.call("KV/Put", &message).await?;
        Ok(())
    }

    async fn get(&mut self, key: &str) -> Result<()> {
        let mut message = BytesMut::new();
        field(&mut message, 1, key.as_bytes());
        let response = self.call("KV/Range", &message).await?;
        let found = fields(&response).ok_or("a response cannot be decoded")?;
        if found.iter().any(|(number, ..)| *number == 2) {
            Ok(())
        } else {
            Err(format!("{key} does not exist").into())
        }
    }
}

/// Waits for a leader, and returns its address.
pub(crate) async fn leader(addresses: &[SocketAddr]) -> Result<SocketAddr> {
    for _ in 0..300 {
        for address in addresses {
            if let Ok(mut connection) = Connection::open(*address).await
                && let Ok(status) = connection.call("Maintenance/Status", &[]).await
                && is_leader(&status) == Some(true)
            {
                return Ok(*address);
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    Err("etcd has no leader".into())
}

/// Whether the member that sent this status leads.
fn is_leader(status: &[u8]) -> Option<bool> {
    let status = fields(status)?;
    let header = status.iter().find(|(number, ..)| *number == 1)?.2;
    let own = fields(header)?.iter().find(|(number, ..)| *number == 2)?.1;
    let leader = status.iter().find(|(number, ..)| *number == 4)?.1;
    Some(own == leader && leader != 0)
}
