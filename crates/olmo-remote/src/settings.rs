//! [`Settings`]: the hub's address, credentials and limits.

use std::time::Duration;

/// Default hub.
const HUB: &str = "https://huggingface.co";

/// How to reach remote sources.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The hub's address, without a trailing slash.
    pub hub: String,
    /// Sent only to the hub's own host.
    pub token: Option<String>,
    /// Additional trusted certificates, in PEM.
    pub certificates: Option<std::path::PathBuf>,
    /// Maximum size of a file in bytes.
    pub max_bytes: u64,
    /// Number of attempts before a request fails.
    pub attempts: u32,
    /// Wait before the second attempt; doubles each time.
    pub pause: Duration,
    /// Longest wait that a server may ask for.
    pub longest_wait: Duration,
    /// The command that runs pip; empty: `python3 -m pip`, or `pip`.
    pub pip: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hub: HUB.to_owned(),
            token: None,
            certificates: None,
            max_bytes: 256 << 30,
            attempts: 5,
            pause: Duration::from_millis(500),
            longest_wait: Duration::from_secs(120),
            pip: Vec::new(),
        }
    }
}

impl Settings {
    /// Reads the settings from the environment: `HF_ENDPOINT`, `HF_TOKEN`, `SSL_CERT_FILE`,
    /// `OLMO_PIPE_MAX_DOWNLOAD_GIB`, `OLMO_PIPE_PIP` (split at spaces).
    ///
    /// # Errors
    /// An invalid number.
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let variable = |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let mut settings = Self { token: variable("HF_TOKEN"), ..Self::default() };
        if let Some(hub) = variable("HF_ENDPOINT") {
            settings.hub = hub.trim_end_matches('/').to_owned();
        }
        settings.certificates = variable("SSL_CERT_FILE").map(Into::into);
        if let Some(text) = variable("OLMO_PIPE_MAX_DOWNLOAD_GIB") {
            let number = text.parse::<u64>().ok().and_then(|gib| gib.checked_mul(1 << 30)).filter(|bytes| *bytes > 0);
            settings.max_bytes = number
                .ok_or_else(|| format!("OLMO_PIPE_MAX_DOWNLOAD_GIB is `{text}`, not a whole number of GiB above 0"))?;
        }
        settings.pip = variable("OLMO_PIPE_PIP")
            .map(|text| text.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default();
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_and_a_bad_number_refused() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
            Settings::of_environment(|name| pairs.iter().find(|(a, _)| a == name).map(|(_, b)| b.clone()))
        };
        let settings = of(&[
            ("HF_ENDPOINT", "https://mirror.example/"),
            ("HF_TOKEN", " hf_x\n"),
            ("OLMO_PIPE_MAX_DOWNLOAD_GIB", "2"),
        ])
        .unwrap();
        assert_eq!(
            (settings.hub.as_str(), settings.token.as_deref(), settings.max_bytes),
            ("https://mirror.example", Some("hf_x"), 2 << 30)
        );
        assert_eq!(of(&[("HF_TOKEN", "")]).unwrap().token, None);
        for bad in ["0", "-1", "x", "99999999999999999999"] {
            assert!(of(&[("OLMO_PIPE_MAX_DOWNLOAD_GIB", bad)]).unwrap_err().contains(bad));
        }
    }
}
