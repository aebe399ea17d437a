//! Clients that write bytes rather than requests: malformed HTTP/1.1, and HTTP/2 frame by frame.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Longest wait for a single read; far more than it takes.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const DATA: u8 = 0;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A connection on which any bytes can be sent.
pub(crate) struct Raw(pub(crate) TcpStream);

/// One HTTP/2 frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        stream.set_write_timeout(Some(DEADLINE)).expect("set");
        Self(stream)
    }

    /// A connection that speaks HTTP/2 and has sent these settings.
    pub(crate) fn http2(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self::open(address);
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        raw.send(&frame(SETTINGS, 0, 0, &payload));
        raw
    }

    /// Sends what the other side still takes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Everything until the other side closes the connection. Fails if it does not.
    pub(crate) fn until_closed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 65_536];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return bytes,
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    panic!("still open after {DEADLINE:?}")
                }
                Err(_) => return bytes, // reset
            }
        }
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Answers pings and settings as an honest client does, until a frame `is` what is waited for.
    pub(crate) fn frame_that(&mut self, is: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.frame()?;
            if frame.kind == PING && frame.flags & ACK == 0 {
                self.send(&self::frame(PING, ACK, 0, &frame.payload));
            }
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                self.send(&self::frame(SETTINGS, ACK, 0, &[]));
            }
            if is(&frame) {
                return Some(frame);
            }
        }
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The header block of a request: HPACK without Huffman codes and without the dynamic table.
pub(crate) fn header_block(method: &str, path: &str) -> Vec<u8> {
    let literal = |name: u8, value: &str| {
        let mut bytes = vec![name, value.len() as u8];
        bytes.extend_from_slice(value.as_bytes());
        bytes
    };
    // Static table: 1 `:authority`, 2 `:method: GET`, 4 `:path: /`, 6 `:scheme: http`.
    let parts = [
        literal(0x02, method),
        vec![0x86],
        literal(0x04, path),
        literal(0x01, "localhost"),
    ];
    parts.concat()
}

pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    let block = header_block("GET", path);
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}
