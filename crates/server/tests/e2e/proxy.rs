//! A network between two of us that can be cut, mended, and made slow.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

/// Takes connections on a port of its own and carries them to another.
pub struct Proxy {
    port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    to: AtomicU16,
    cut: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// To a port of this machine.
    pub fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Inner { to: AtomicU16::new(to), cut: AtomicBool::new(false), open: Mutex::default() };
        let inner = Arc::new(inner);
        let serving = inner.clone();
        std::thread::spawn(move || serving.serve(&listener));
        Proxy { port, inner }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// New connections go to another port.
    pub fn turn_to(&self, port: u16) {
        self.inner.to.store(port, Ordering::SeqCst);
    }

    /// Nobody comes through until it is mended.
    pub fn cut(&self) {
        self.inner.cut.store(true, Ordering::SeqCst);
        self.reset();
    }

    /// Breaks every connection there is; new ones come through.
    pub fn reset(&self) {
        for stream in self.inner.open.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.inner.cut.store(false, Ordering::SeqCst);
    }
}

impl Inner {
    fn serve(self: Arc<Self>, listener: &TcpListener) {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(("127.0.0.1", self.to.load(Ordering::SeqCst))) else { continue };
            if self.cut.load(Ordering::SeqCst) {
                continue;
            }
            let mut open = self.open.lock().unwrap();
            for (from, to) in [(&near, &far), (&far, &near)] {
                open.push(from.try_clone().unwrap());
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || pump(from, to));
            }
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
