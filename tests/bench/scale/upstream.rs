//! An upstream that says who it is, on threads of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use crate::Failure;

/// Starts one that answers every request with this word, until the process ends.
pub(crate) fn start(word: &'static str) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream, word));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream, word: &str) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}",
        word.len()
    );
    let _nodelay = stream.set_nodelay(true);
    let Ok(read) = stream.try_clone() else {
        return;
    };
    let mut read = BufReader::new(read);
    let mut line = String::new();
    loop {
        line.clear();
        match read.read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.trim_end().is_empty() => {
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            Ok(_) => {}
        }
    }
}
