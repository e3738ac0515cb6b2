//! The Admin API over a kept connection, and many of them at once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::gateway::KEY;

/// How many connections fill a gateway.
const WRITERS: usize = 8;

/// A kept connection.
pub(crate) struct Admin(BufReader<TcpStream>);

impl Admin {
    /// Opens one.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self(BufReader::with_capacity(1 << 16, stream)))
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&mut self, path: &str, body: &str) -> Result<(), Failure> {
        let (status, answer) = self.send("PUT", path, body)?;
        if status == 200 || status == 201 {
            return Ok(());
        }
        Err(format!("PUT {path}: {status} {}", String::from_utf8_lossy(&answer)).into())
    }

    /// Reads a list, and says how long it took to the last byte and what it said.
    pub(crate) fn list(&mut self, path: &str) -> Result<(Duration, Vec<u8>), Failure> {
        let began = Instant::now();
        let (status, answer) = self.send("GET", path, "")?;
        let took = began.elapsed();
        if status != 200 {
            return Err(format!("GET {path}: {status}").into());
        }
        Ok((took, answer))
    }

    fn send(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>), Failure> {
        let head = format!(
            "{method} /apisix/admin/{path} HTTP/1.1\r\nHost: admin\r\nX-API-KEY: {KEY}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let stream = self.0.get_mut();
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let status = line.split(' ').nth(1).ok_or("no status")?.parse()?;
        let mut length = 0;
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            let field = line.trim_end().to_ascii_lowercase();
            if field.is_empty() {
                break;
            }
            if let Some(value) = field.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer)?;
        Ok((status, answer))
    }
}

/// Puts all of these over several connections, and says how long that took.
pub(crate) fn fill(
    address: SocketAddr,
    count: usize,
    object: &(dyn Fn(usize) -> (String, String) + Sync),
) -> Result<Duration, Failure> {
    let began = Instant::now();
    let results: Vec<Result<(), Failure>> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|first| {
                scope.spawn(move || -> Result<(), Failure> {
                    let mut admin = Admin::connect(address)?;
                    for index in (first..count).step_by(WRITERS) {
                        let (path, body) = object(index);
                        admin.put(&path, &body)?;
                    }
                    Ok(())
                })
            })
            .collect();
        let ended = writers.into_iter().map(|writer| writer.join());
        ended
            .map(|ended| ended.unwrap_or_else(|_panic| Err("a writer panicked".into())))
            .collect()
    });
    results.into_iter().collect::<Result<(), _>>()?;
    Ok(began.elapsed())
}
