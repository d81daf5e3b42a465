//! [`Url`]: a minimal URL type, with the checks that redirects need.

use std::fmt;

/// An `http:` or `https:` address, without a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    secure: bool,
    /// Host and port as written, in lower case.
    authority: String,
    /// Starts with `/` and includes the query.
    path: String,
}

impl Url {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(bad) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!("it contains {bad:?}"));
        }
        let text = text.split('#').next().unwrap_or_default();
        let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        let (secure, rest) = if lower.starts_with("https://") {
            (true, &text[8..])
        } else if lower.starts_with("http://") {
            (false, &text[7..])
        } else {
            return Err("it is not an https address".to_owned());
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err("it contains a user name or password, which would end up in locks and logs".to_owned());
        }
        if authority.is_empty() || authority.starts_with(':') || authority.contains('\\') {
            return Err("it has no host".to_owned());
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { secure, authority: authority.to_ascii_lowercase(), path })
    }

    /// The target of a redirect from here to `location`.
    pub(crate) fn join(&self, location: &str) -> Result<Self, String> {
        let scheme = if self.secure { "https" } else { "http" };
        if location.contains("://") && location.find("://") < location.find(['/', '?']) {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        if location.starts_with('/') {
            return Self::parse(&format!("{scheme}://{}{location}", self.authority));
        }
        let folder = self.path.split('?').next().unwrap_or("/");
        let folder = &folder[..folder.rfind('/').map_or(0, |at| at + 1)];
        Self::parse(&format!("{scheme}://{}{folder}{location}", self.authority))
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether it points to this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = match self.authority.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.authority.split(':').next().unwrap_or_default(),
        };
        host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }

    /// Scheme, host and port: the recipient of a request.
    pub(crate) fn origin(&self) -> (bool, String) {
        let default = if self.secure { ":443" } else { ":80" };
        (self.secure, self.authority.strip_suffix(default).unwrap_or(&self.authority).to_owned())
    }

    /// Number of names in the path.
    pub(crate) fn depth(&self) -> usize {
        let path = self.path.split('?').next().unwrap_or_default();
        path.split('/').filter(|name| !name.is_empty()).count()
    }

    /// Last segment of the path, percent-decoded; empty if there is none.
    pub(crate) fn file_name(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        decoded(path.rsplit('/').next().unwrap_or_default())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.secure { "https" } else { "http" }, self.authority, self.path)
    }
}

/// Percent-encodes everything except unreserved characters; `slashes` keeps slashes.
pub(crate) fn encoded(text: &str, slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if slashes => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Percent-decodes `text`; an invalid escape is kept.
pub(crate) fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        match digits.filter(|_| bytes[at] == b'%').and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_and_put_together() {
        let url = Url::parse("HTTPS://Host.example:443/a/b%20c.jsonl?x=1#sha256=00").unwrap();
        assert_eq!(url.to_string(), "https://host.example:443/a/b%20c.jsonl?x=1");
        assert_eq!(url.origin(), (true, "host.example".to_owned()));
        assert_eq!(url.file_name(), "b c.jsonl");
        assert!(url.is_secure() && !url.is_loopback());
        assert!(Url::parse("http://127.0.0.1:80/").unwrap().is_loopback());
        assert!(Url::parse("http://[::1]:8080/x").unwrap().is_loopback());
        assert!(!Url::parse("http://127.0.0.1.evil.example/x").unwrap().is_loopback());
        for bad in ["ftp://h/x", "https://", "https:///x", "https://u:p@h/x", "https://h/a b", "https://h/\u{7}", "x"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_redirect_is_followed_in_all_its_forms() {
        let url = Url::parse("https://h.example/a/b?q=/z").unwrap();
        let to = |location: &str| url.join(location).map(|url| url.to_string());
        assert_eq!(to("https://cdn.example/x?s=1").unwrap(), "https://cdn.example/x?s=1");
        assert_eq!(to("//cdn.example/x").unwrap(), "https://cdn.example/x");
        assert_eq!(to("/api/x").unwrap(), "https://h.example/api/x");
        assert_eq!(to("c").unwrap(), "https://h.example/a/c");
        assert_eq!(to("/x?next=http://y").unwrap(), "https://h.example/x?next=http://y");
        assert_eq!(to("http://h.example/x").unwrap(), "http://h.example/x", "the client refuses that");
        assert!(to("file:///etc/passwd").is_err());
    }

    #[test]
    fn percent_signs_go_both_ways() {
        assert_eq!(encoded("a b/ä%", true), "a%20b/%C3%A4%25");
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(decoded("a%20b/%C3%A4%25%zz%"), "a b/ä%%zz%");
    }
}
