//! [`Client`]: an HTTP client with strict redirect rules, retries and support for Retry-After.

use std::io::Read;
use std::time::Duration;

use olmo_base::IoContext as _;
use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::error::RemoteError;
use crate::settings::Settings;
use crate::url::Url;
use crate::watch::Watch;

const REDIRECTS: usize = 10;
/// Maximum size of an API response in bytes.
const LONGEST_ANSWER: u64 = 64 << 20;

/// Sends requests.
pub(crate) struct Client {
    settings: Settings,
    hub: Url,
    /// For hosts on the network, through the proxy if there is one.
    agent: Agent,
    /// For this machine.
    direct: Agent,
}

/// A server's response: 2xx, or 416 to a range request.
pub(crate) struct Answer {
    pub url: Url,
    response: Response<Body>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.header(name).and_then(|text| text.trim().parse().ok())
    }

    pub(crate) fn reader(self) -> impl Read {
        self.response.into_body().into_with_config().limit(u64::MAX).reader()
    }

    /// The whole response as text, up to the size limit.
    pub(crate) fn text(self) -> Result<String, RemoteError> {
        let url = self.url.to_string();
        let body = self.response.into_body().into_with_config().limit(LONGEST_ANSWER);
        body.lossy_utf8(true).read_to_string().map_err(|e| RemoteError::Answer { url, why: e.to_string() })
    }
}

/// The result of one attempt.
enum Attempt {
    Done(Answer),
    /// A retry may succeed; with the wait that the server asks for.
    Later(RemoteError, Option<Duration>),
    Never(RemoteError),
}

impl Client {
    /// # Errors
    /// The hub's address or the certificates are invalid.
    pub(crate) fn new(settings: &Settings) -> Result<Self, RemoteError> {
        let hub = Url::parse(&settings.hub)
            .map_err(|why| RemoteError::Form { source_text: format!("HF_ENDPOINT={}", settings.hub), why })?;
        let mut roots = RootCerts::WebPki;
        if let Some(path) = &settings.certificates {
            let text = std::fs::read(path).context_during("read the certificates in", path)?;
            let found: Vec<Certificate<'static>> = parse_pem(&text)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if !found.is_empty() {
                roots = RootCerts::Specific(found.into());
            }
        }
        let agent = |proxy: bool| {
            let config = Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .user_agent(concat!("olmo-pipe/", env!("CARGO_PKG_VERSION")))
                .timeout_connect(Some(Duration::from_secs(30)))
                .timeout_recv_response(Some(Duration::from_secs(120)))
                .timeout_per_read(Some(Duration::from_secs(60)))
                .tls_config(TlsConfig::builder().root_certs(roots.clone()).build());
            let config = if proxy { config } else { config.proxy(None) };
            config.build().new_agent()
        };
        Ok(Self { settings: settings.clone(), hub, agent: agent(true), direct: agent(false) })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends a request for `url`, with retries.
    pub(crate) fn get(
        &self,
        url: &Url,
        headers: &[(&str, String)],
        watch: &mut dyn Watch,
    ) -> Result<Answer, RemoteError> {
        let mut pause = self.settings.pause;
        let mut attempt = 1;
        loop {
            let (error, asked) = match self.send_once(url, headers, attempt) {
                Attempt::Done(answer) => return Ok(answer),
                Attempt::Never(error) => return Err(error),
                Attempt::Later(error, asked) => (error, asked),
            };
            let wait = asked.unwrap_or(pause);
            if wait > self.settings.longest_wait {
                return Err(RemoteError::TooOften { url: url.to_string(), seconds: wait.as_secs() });
            }
            if attempt >= self.settings.attempts {
                return Err(error);
            }
            watch.waits(&error, wait);
            std::thread::sleep(wait);
            pause = (pause * 2).min(self.settings.longest_wait);
            attempt += 1;
        }
    }

    fn send_once(&self, first: &Url, headers: &[(&str, String)], attempts: u32) -> Attempt {
        let mut url = first.clone();
        for _ in 0..REDIRECTS {
            let agent = if url.is_loopback() { &self.direct } else { &self.agent };
            let mut request = agent.get(url.to_string());
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            // Send the token only to the hub, and never unencrypted over a network.
            let own = url.origin() == self.hub.origin() && (url.is_secure() || url.is_loopback());
            let token = self.settings.token.as_ref().filter(|_| own);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = match request.call() {
                Ok(response) => response,
                Err(e) => return self.failed(&url, &e, attempts),
            };
            let answer = Answer { url: url.clone(), response };
            let status = answer.response.status();
            if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                let Some(location) = answer.header("location").map(str::to_owned) else {
                    let why = format!("the response {status} has no location");
                    return Attempt::Never(RemoteError::Answer { url: url.to_string(), why });
                };
                url = match url.join(&location).and_then(|to| self.may_follow(&url, &to).map(|()| to)) {
                    Ok(to) => to,
                    Err(why) => {
                        return Attempt::Never(RemoteError::Redirect { url: url.to_string(), to: location, why });
                    }
                };
                continue;
            }
            return classify(answer, self.settings.token.is_some());
        }
        let why = format!("more than {REDIRECTS} redirects");
        Attempt::Never(RemoteError::Redirect { url: first.to_string(), to: url.to_string(), why })
    }

    /// Whether a redirect may be followed.
    fn may_follow(&self, from: &Url, to: &Url) -> Result<(), String> {
        if from.is_secure() && !to.is_secure() {
            return Err("from https to plain http".to_owned());
        }
        if !to.is_secure() && !to.is_loopback() && to.origin() != self.hub.origin() {
            return Err("to plain http".to_owned());
        }
        if to.is_loopback() && !from.is_loopback() {
            return Err("from the network to this machine".to_owned());
        }
        Ok(())
    }

    fn failed(&self, url: &Url, error: &ureq::Error, attempts: u32) -> Attempt {
        let lasting = matches!(
            error,
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl | ureq::Error::Rustls(_)
        );
        let why = error.to_string();
        // Retrying does not fix a certificate.
        let lasting = lasting || why.contains("certificate");
        let failure = RemoteError::Unreachable { url: url.to_string(), why, attempts };
        if lasting { Attempt::Never(failure) } else { Attempt::Later(failure, None) }
    }
}

/// Classifies a response that is not a redirect.
fn classify(answer: Answer, token: bool) -> Attempt {
    let status = answer.response.status();
    if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE) {
        return Attempt::Done(answer);
    }
    let asked = answer.number("retry-after").map(Duration::from_secs);
    let url = answer.url.to_string();
    // The hub puts the reason in this header.
    let said = answer.header("x-error-message").map(str::to_owned);
    let text = said.unwrap_or_else(|| {
        let mut start = Vec::new();
        let _ = answer.reader().take(400).read_to_end(&mut start);
        let text = String::from_utf8_lossy(&start).into_owned();
        if text.trim_start().starts_with('<') { String::new() } else { text }
    });
    let error = RemoteError::Status { url, status: status.as_u16(), text, token };
    match status.as_u16() {
        408 | 429 | 500 | 502 | 503 | 504 => Attempt::Later(error, asked),
        _ => Attempt::Never(error),
    }
}

/// `bytes 5-9/10` or `bytes */10`: the first byte and the total size.
pub(crate) fn content_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
    Some((start, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(content_range("bytes */10"), Some((None, Some(10))));
        assert_eq!(content_range("bytes 0-1/*"), Some((Some(0), None)));
        for bad in ["", "items 0-1/2", "bytes 5", "5-9/10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
