//! A plain HTTP/1.1 client over std sockets: small enough to trust while it tests a server.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer that was not 200, or a body that was cut.
#[derive(Debug, Clone)]
pub struct Failure {
    /// 0 where the connection failed.
    pub status: u16,
    pub text: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status, self.text)
    }
}
impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure { status: 0, text: e.to_string() }
    }
}

/// One of the server's ports.
#[derive(Debug, Clone)]
pub struct Door {
    pub address: String,
}

impl Door {
    /// Runs a statement and returns its whole answer.
    pub fn query(&self, sql: &str) -> Result<String, Failure> {
        self.post("/", sql.as_bytes())
    }

    /// `INSERT … FORMAT …` with the data in the body.
    pub fn insert(&self, sql: &str, settings: &str, body: &[u8]) -> Result<String, Failure> {
        self.post(&format!("/?query={}{settings}", percent(sql)), body)
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<String, Failure> {
        let mut answer = Answer::open(&self.address, "POST", path, body)?;
        let mut text = String::new();
        match answer.read_to_string(&mut text) {
            Ok(_) if answer.status == 200 => Ok(text),
            Ok(_) => Err(Failure { status: answer.status, text }),
            Err(e) => Err(Failure { status: 0, text: format!("{e} after: {text}") }),
        }
    }

    /// A query whose answer is read line by line as it comes.
    pub fn follow(&self, sql: &str) -> Result<Answer, Failure> {
        let mut answer = Answer::open(&self.address, "POST", "/", sql.as_bytes())?;
        if answer.status != 200 {
            let mut text = String::new();
            answer.read_to_string(&mut text)?;
            return Err(Failure { status: answer.status, text });
        }
        Ok(answer)
    }
}

/// A response whose body is decoded while it is read. Dropping it closes the connection.
pub struct Answer {
    pub status: u16,
    reader: BufReader<TcpStream>,
    chunked: bool,
    /// Bytes left of the chunk, or of a body with a length.
    left: u64,
    ended: bool,
}

impl Answer {
    fn open(address: &str, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        let mut socket = TcpStream::connect(address)?;
        // Longer than any wait of a test: a hang fails loudly instead of for ever.
        socket.set_read_timeout(Some(Duration::from_secs(120)))?;
        socket.set_nodelay(true)?;
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        // The server may answer and close before it has read a body it refuses.
        let sent = socket.write_all(body);
        let mut reader = BufReader::new(socket);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let Some(status) = status else {
            sent?;
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("no status line: {line:?}")));
        };
        let (mut chunked, mut left) = (false, u64::MAX);
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let header = line.trim_end().to_ascii_lowercase();
            match header.split_once(':') {
                None => break,
                Some(("transfer-encoding", v)) if v.contains("chunked") => (chunked, left) = (true, 0),
                Some(("content-length", v)) => left = v.trim().parse().unwrap_or(0),
                Some(_) => {}
            }
        }
        Ok(Answer { status, reader, chunked, left, ended: false })
    }

    /// The next line without its end; `None` at the end of the answer.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        let mut out = Vec::new();
        let mut byte = [0];
        while self.read(&mut byte)? == 1 {
            if byte[0] == b'\n' {
                return Ok(Some(String::from_utf8_lossy(&out).into_owned()));
            }
            out.push(byte[0]);
        }
        Ok(if out.is_empty() { None } else { Some(String::from_utf8_lossy(&out).into_owned()) })
    }
}

impl Read for Answer {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.chunked && self.left == 0 && !self.ended {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the chunked body was cut"));
            }
            if line.trim().is_empty() {
                line.clear();
                self.reader.read_line(&mut line)?;
            }
            self.left = u64::from_str_radix(line.trim(), 16).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("bad chunk size {line:?}"))
            })?;
            self.ended = self.left == 0;
        }
        if self.ended || self.left == 0 {
            return Ok(0);
        }
        let n = (buf.len() as u64).min(self.left) as usize;
        let n = self.reader.read(&mut buf[..n])?;
        if n == 0 && self.left != u64::MAX {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body was cut"));
        }
        if self.left != u64::MAX {
            self.left -= n as u64;
        }
        if self.chunked && self.left == 0 {
            let mut end = [0; 2];
            self.reader.read_exact(&mut end)?;
        }
        Ok(n)
    }
}

pub fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(b as char),
            _ => out.push_str(&format!("%{b:02X}")),
        }
        out
    })
}
