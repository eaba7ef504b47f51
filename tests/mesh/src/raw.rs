//! Bytes on sockets: applications that are no HTTP servers, and clients that say exactly what a test wants said.

use crate::LIMIT;
use std::{io, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Serves each connection with `f` until the runtime ends.
pub async fn serve<F: Future<Output = io::Result<()>> + Send + 'static>(
    at: SocketAddr,
    f: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) {
    let listener = TcpListener::bind(at).await.unwrap();
    let f = Arc::new(f);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = socket.set_nodelay(true);
            let f = f.clone();
            // a connection that ends early is part of the tests
            tokio::spawn(async move { f(socket).await });
        }
    });
}

pub async fn connect(at: SocketAddr) -> io::Result<TcpStream> {
    let s = timeout(LIMIT, TcpStream::connect(at)).await??;
    s.set_nodelay(true)?;
    Ok(s)
}
pub async fn dial(at: SocketAddr) -> TcpStream {
    connect(at).await.unwrap()
}

/// Reads until `end` has come; everything read so far.
pub async fn until(s: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    let read = async {
        let mut b = [0; 4096];
        while !String::from_utf8_lossy(&all).contains(end) {
            match s.read(&mut b).await {
                Ok(n @ 1..) => all.extend_from_slice(&b[..n]),
                end => panic!("ended by {end:?} after {:?}", String::from_utf8_lossy(&all)),
            }
        }
    };
    assert!(timeout(LIMIT, read).await.is_ok(), "no {end:?} within {LIMIT:?}");
    String::from_utf8_lossy(&all).into_owned()
}

/// Says `bytes` and reads until the other side closes or resets.
pub async fn ask(at: SocketAddr, bytes: &[u8]) -> String {
    let mut s = dial(at).await;
    // a server may refuse before it has read everything
    let _ = s.write_all(bytes).await;
    rest(&mut s).await
}

/// Everything until the end or a reset.
pub async fn rest(s: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let end = timeout(LIMIT, s.read_to_end(&mut all)).await;
    assert!(end.is_ok(), "still open after {LIMIT:?}: {:?}", String::from_utf8_lossy(&all));
    String::from_utf8_lossy(&all).into_owned()
}

/// Resident memory of this process, in bytes.
pub fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
