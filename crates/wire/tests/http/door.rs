//! A server on a free port and a client that sees every byte.

use crate::service::Service;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use weir_base::{Rng, SystemClock};
use weir_engine::{QueryMode, Users};
use weir_wire::{Access, HttpOptions, HttpServer};

pub struct Door {
    pub service: Arc<Service>,
    address: SocketAddr,
    server: HttpServer,
    runtime: Runtime,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
    /// The length was met, or the last chunk came.
    pub complete: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|l| l.split_once(": "))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}

pub fn inflate(coding: &str, bytes: &[u8]) -> String {
    let mut out = Vec::new();
    // A cut body ends inside the coding: what is readable before counts.
    let _ = match coding {
        "gzip" => flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out),
        "zstd" => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out),
        "lz4" => lz4_flex::frame::FrameDecoder::new(bytes).read_to_end(&mut out),
        other => panic!("{other}"),
    };
    String::from_utf8(out).unwrap()
}

fn access(users: Users) -> Access {
    Access::new(users, &Rng::seeded(2))
}

impl Door {
    pub fn open() -> Door {
        Self::with(access(Users::default()), HttpOptions::default())
    }
    pub fn with_password(password: &str) -> Door {
        Self::with(access(Users::with_password(password, &Rng::seeded(1)).unwrap()), HttpOptions::default())
    }
    pub fn with_connections_max(connections_max: usize) -> Door {
        Self::with(access(Users::default()), HttpOptions { connections_max, ..HttpOptions::default() })
    }

    fn with(access: Access, options: HttpOptions) -> Door {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let service = Arc::new(Service::new());
        let server = HttpServer::new(
            service.clone(),
            access,
            Arc::new(SystemClock::new()),
            Rng::seeded(7),
            options,
            runtime.handle().clone(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = server.clone();
        runtime.spawn(async move { serving.serve(listener, QueryMode::Table).await });
        Door { service, address, server, runtime }
    }

    /// Begins a shutdown with two seconds to drain, without waiting for it.
    pub fn shut_down(&self) {
        let server = self.server.clone();
        self.runtime.spawn(async move { server.shut_down(Duration::from_secs(2)).await });
    }

    pub fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Connection { stream, held: Vec::new() }
    }
    pub fn posting(&self, path: &str, body: &str) -> Vec<u8> {
        request("POST", path, &[], body.as_bytes())
    }
    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.send_with("POST", path, &[], body.as_bytes())
    }
    pub fn get(&self, path: &str) -> Answer {
        self.send_with("GET", path, &[], b"")
    }
    pub fn send_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.connect().ask(&request(method, path, headers, body))
    }
    pub fn send(&self, raw: &str) -> Answer {
        self.connect().ask(raw.as_bytes())
    }

    /// Tries until it holds, for ten seconds at most.
    #[allow(clippy::disallowed_methods, reason = "bounds the wait")]
    pub fn wait_until(&self, mut holds: impl FnMut() -> bool) {
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(std::time::Instant::now() < until, "did not come true in 10 s");
            std::thread::yield_now();
        }
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        out += &format!("{name}: {value}\r\n");
    }
    let mut out = (out + "\r\n").into_bytes();
    out.extend_from_slice(body);
    out
}

pub struct Connection {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Connection {
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends from a second thread: an answer may come before all is sent.
    pub fn ask(&mut self, request: &[u8]) -> Answer {
        self.try_ask(request).expect("an answer")
    }

    pub fn try_ask(&mut self, request: &[u8]) -> Option<Answer> {
        let mut stream = self.stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || stream.write_all(request));
            let head = self.try_read_head()?;
            Some(self.read_body(&head))
        })
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.held.extend_from_slice(&buffer[..n]);
                true
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(e) => panic!("read: {e}"),
        }
    }

    fn try_read_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.held.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.held.drain(..end + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.more() {
                return None;
            }
        }
    }

    pub fn read_head(&mut self) -> String {
        self.try_read_head().expect("a head")
    }

    pub fn read_answer(&mut self) -> Answer {
        let head = self.read_head();
        self.read_body(&head)
    }

    /// One chunk of a chunked body; `None` at a cut; empty for the last.
    pub fn read_chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(line) = self.held.windows(2).position(|w| w == b"\r\n") {
                let size =
                    usize::from_str_radix(std::str::from_utf8(&self.held[..line]).unwrap(), 16).unwrap();
                if self.held.len() >= line + 2 + size + 2 {
                    let chunk = self.held[line + 2..line + 2 + size].to_vec();
                    self.held.drain(..line + 2 + size + 2);
                    return Some(chunk);
                }
            }
            if !self.more() {
                return None;
            }
        }
    }

    pub fn read_body(&mut self, head: &str) -> Answer {
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head: head.to_owned(), body: Vec::new(), complete: true };
        if header(head, "transfer-encoding") == Some("chunked") {
            loop {
                match self.read_chunk() {
                    None => {
                        answer.complete = false;
                        return answer;
                    }
                    Some(chunk) if chunk.is_empty() => return answer,
                    Some(chunk) => answer.body.extend(chunk),
                }
            }
        }
        let length: usize = header(head, "content-length").map_or(0, |l| l.parse().unwrap());
        while self.held.len() < length {
            if !self.more() {
                answer.complete = false;
                break;
            }
        }
        answer.body = self.held.drain(..length.min(self.held.len())).collect();
        answer
    }
}
