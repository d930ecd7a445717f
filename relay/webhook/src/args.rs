//! The command line: words as typed, nothing decided.

use std::{ffi::OsString, path::PathBuf};

use clap::Parser;

/// Annotates pods with the resources their containers ask for, which CRI does not carry.
///
/// Long options take one dash or two.
#[derive(Clone, Debug, Parser)]
#[command(name = "cri-resmgr-webhook", version)]
pub(crate) struct WebhookArgs {
    /// Port to serve HTTPS on.
    #[arg(long, value_name = "PORT", default_value_t = 443)]
    pub(crate) port: u16,
    /// Certificate chain, PEM; read again when it changes.
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub(crate) cert_file: Option<PathBuf>,
    /// Private key of the certificate, PEM; read again when it changes.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub(crate) key_file: Option<PathBuf>,
    /// Make the certificate myself, and write its authority into this
    /// MutatingWebhookConfiguration.
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "cert_file",
        required_unless_present = "cert_file"
    )]
    pub(crate) self_signed: Option<String>,
    /// Name or address that the API server calls, for the certificate made by --self-signed.
    #[arg(
        long,
        value_name = "HOST",
        default_value = "cri-resmgr-webhook.cri-resmgr.svc"
    )]
    pub(crate) host: String,
    /// Credentials for the API server, with --self-signed; without it, those of the pod.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespaces whose pods are left alone.
    #[arg(
        long,
        value_name = "NAMESPACE",
        value_delimiter = ',',
        default_value = "cri-resmgr"
    )]
    pub(crate) exempt_namespaces: Vec<String>,
    /// What to log, such as `info` or `debug`. Contents of pods are never logged.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
}

impl WebhookArgs {
    /// Reads the words of a command line.
    pub(crate) fn from_words(
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        Self::try_parse_from(words.into_iter().map(two_dashes))
    }
}

/// `-port` means `--port`; `-h` and `-V` stay as they are.
fn two_dashes(word: OsString) -> OsString {
    match word.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
            format!("-{text}").into()
        }
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<WebhookArgs, clap::Error> {
        WebhookArgs::from_words(words.split(' ').map(OsString::from))
    }

    #[test]
    fn options_take_one_dash_or_two() {
        let args = parse("webhook -port 8443 -cert-file /c -key-file=/k").unwrap();
        assert_eq!(args.port, 8443);
        assert_eq!(args.key_file, Some(PathBuf::from("/k")));
    }

    #[test]
    fn a_certificate_is_given_or_made_and_never_both() {
        assert!(parse("webhook -port 1").is_err());
        assert!(parse("webhook -cert-file /c").is_err());
        assert!(parse("webhook -self-signed x -cert-file /c -key-file /k").is_err());
        assert!(parse("webhook -self-signed x").is_ok());
    }
}
