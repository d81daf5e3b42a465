//! A small HTTP server on this machine that answers as a file server and as the hub do, and as they should not.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request, as far as tests ask for it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub path: String,
    pub headers: HashMap<String, String>,
}

/// What is sent; a body that is shorter than its length is a connection that breaks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Sent of the body.
    pub cut: Option<usize>,
    /// The connection stays open, silent.
    pub hangs: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    pub(crate) fn hang(mut self) -> Self {
        self.hangs = true;
        self
    }

    /// `body` under `etag`, or the part of it that `request` asks for.
    pub(crate) fn file(request: &Request, body: &[u8], etag: &str) -> Self {
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let same = request.headers.get("if-range").is_none_or(|known| known == etag);
        let whole = Reply::new(200, body).with("etag", etag);
        let number = |text: &str| text.parse::<usize>().ok();
        match range.and_then(|(start, last)| Some((number(start)?, number(last)))).filter(|_| same) {
            None => whole,
            Some((start, _)) if start >= body.len() => {
                Reply::new(416, "").with("content-range", &format!("bytes */{}", body.len()))
            }
            Some((start, last)) => {
                let end = last.map_or(body.len(), |last| (last + 1).min(body.len()));
                let range = format!("bytes {start}-{}/{}", end - 1, body.len());
                Reply::new(206, &body[start..end]).with("etag", etag).with("content-range", &range)
            }
        }
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// Runs until the test process ends.
pub(crate) struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (seen, handler): (_, Arc<Handler>) = (requests.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, handler) = (seen.clone(), handler.clone());
                std::thread::spawn(move || {
                    let _ = serve(stream, &seen, &*handler);
                });
            }
        });
        Self { address, requests }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Request>>, handler: &Handler) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request = Request { path, headers };
    seen.lock().unwrap().push(request.clone());
    let reply = handler(&request);
    write!(stream, "HTTP/1.1 {} Said\r\nconnection: close\r\ncontent-length: {}\r\n", reply.status, reply.body.len())?;
    for (name, value) in &reply.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())])?;
    stream.flush()?;
    if reply.hangs {
        std::thread::sleep(std::time::Duration::from_secs(120));
    }
    Ok(())
}
