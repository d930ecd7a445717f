//! What of a message is a secret: the one table, and how it is followed down into the message.
//!
//! Hidden are registry credentials, environment values, annotations that are not known to be harmless, the runtime's
//! verbose `info` (it repeats the environment) and what commands print.

/// What stands for a secret.
pub(super) const HIDDEN: &str = "(hidden)";

/// What fields of these names hold is hidden, wherever they are.
const SECRETS: &[(&str, Redaction)] = &[
    ("auth", Redaction::Credentials),
    ("envs", Redaction::Environment),
    ("annotations", Redaction::AllBut(SAFE_ANNOTATIONS)),
    ("info", Redaction::AllBut(&[])),
    ("stdout", Redaction::Output),
    ("stderr", Redaction::Output),
];

/// Annotations whose values are shown: those that the kubelet, the runtime and ourselves write about
/// placement and bookkeeping. All others may hold anything, up to whole manifests.
const SAFE_ANNOTATIONS: &[&str] = &[
    "io.kubernetes.container.",
    "io.kubernetes.pod.",
    "io.kubernetes.cri.",
    "kubernetes.io/config.",
    "cmk.intel.com/",
    "cri-resource-manager.intel.com/",
    "intel.com/resources",
];

/// Environment variables whose values are shown.
const SAFE_VARIABLES: &[&str] = &["CMK_", "STP_"];

/// What is hidden of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redaction {
    /// Nothing, whatever is in it.
    Nothing,
    /// What fields of the names in [`SECRETS`] hold.
    Secrets,
    /// All of it.
    All,
    /// A registry account: all but the registry's address.
    Credentials,
    /// A list of environment variables.
    Environment,
    /// An environment variable, and whether its value is shown.
    Variable {
        /// Known only after its name.
        shown: bool,
    },
    /// All entries of a map but those whose names begin so.
    AllBut(&'static [&'static str]),
    /// Bytes that a command printed. Flags of the same names are shown.
    Output,
}

impl Redaction {
    /// For the value of field or map entry `name` of a value that is redacted like this.
    pub(super) fn field(self, name: &str) -> Self {
        match self {
            Self::Secrets | Self::Output => SECRETS
                .iter()
                .find(|(secret, _)| *secret == name)
                .map_or(Self::Secrets, |(_, redaction)| *redaction),
            Self::All => Self::All,
            Self::Credentials if name == "server_address" => Self::Nothing,
            Self::Credentials => Self::All,
            Self::Variable { shown: false } if name == "value" => Self::All,
            Self::AllBut(safe) if !starts_with_any(name, safe) => Self::All,
            Self::Nothing | Self::Environment | Self::Variable { .. } | Self::AllBut(_) => {
                Self::Nothing
            }
        }
    }

    /// For the items of a list that is redacted like this.
    pub(super) fn item(self) -> Self {
        match self {
            Self::Environment => Self::Variable { shown: false },
            Self::Output => Self::Secrets,
            _ => self,
        }
    }

    /// Of an environment variable, now that its name is known.
    pub(super) fn of_variable(self, name: &str) -> Self {
        match self {
            Self::Variable { .. } => Self::Variable {
                shown: starts_with_any(name, SAFE_VARIABLES),
            },
            _ => self,
        }
    }

    /// Whether a text, a number or a list that is redacted like this is hidden.
    pub(super) fn hides(self) -> bool {
        matches!(self, Self::All | Self::Credentials)
    }
}

/// What stands for what a command printed.
pub(super) fn hidden_output(bytes: usize) -> String {
    format!("(hidden, {bytes} bytes)")
}

fn starts_with_any(text: &str, beginnings: &[&str]) -> bool {
    beginnings
        .iter()
        .any(|beginning| text.starts_with(beginning))
}
