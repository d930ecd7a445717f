//! What to hide below a field; the rules are those of [`redact::hide_secrets`](crate::dump::redact).

use crate::dump::redact;

/// What is hidden of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hide {
    /// Nothing, whatever is in it.
    Nothing,
    /// What fields with telling names hold.
    Search,
    /// All of it.
    Value,
    /// A registry account: all but the registry's address.
    Account,
    /// A list of environment entries.
    Env,
    /// An environment entry; whether its name is known to be harmless.
    EnvEntry(bool),
    /// The entries of a map but those whose names begin so.
    Entries(&'static [&'static str]),
    /// The entries of a map; anything else is searched.
    Info,
    /// The octets of a list; anything else is searched.
    Output,
}

impl Hide {
    /// For the value of field `name` of an object that is hidden like this.
    pub(super) fn field(self, name: &str) -> Self {
        match self {
            Self::Nothing | Self::Env => Self::Nothing,
            Self::Value => Self::Value,
            Self::Search | Self::Output => match name {
                "auth" => Self::Account,
                "envs" => Self::Env,
                "annotations" => Self::Entries(redact::SAFE_ANNOTATIONS),
                "info" => Self::Info,
                "stdout" | "stderr" => Self::Output,
                _ => Self::Search,
            },
            Self::Account if name == "server_address" => Self::Nothing,
            Self::Account | Self::Info => Self::Value,
            Self::EnvEntry(false) if name == "value" => Self::Value,
            Self::EnvEntry(_) => Self::Nothing,
            Self::Entries(safe) if redact::starts_with_any(name, safe) => Self::Nothing,
            Self::Entries(_) => Self::Value,
        }
    }

    /// For the items of a list that is hidden like this.
    pub(super) fn item(self) -> Self {
        match self {
            Self::Search | Self::Info => Self::Search,
            Self::Env => Self::EnvEntry(false),
            Self::Value | Self::Account | Self::Output => Self::Value,
            Self::Nothing | Self::EnvEntry(_) | Self::Entries(_) => Self::Nothing,
        }
    }

    /// Whether nothing but fields further below can be hidden.
    pub(super) fn searches(self) -> bool {
        matches!(self, Self::Nothing | Self::Search)
    }

    /// Whether a scalar is hidden.
    pub(super) fn scalar(self) -> bool {
        matches!(self, Self::Value | Self::Account)
    }
}
