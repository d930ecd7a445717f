//! From words as typed to a configuration that is legal on this machine.
//!
//! [`options`] defines every option once; [`raw`] holds their values ([`value`]) and where they came from; [`resolve()`]
//! checks them all against the machine and returns either a [`Config`] without a question left open or every
//! problem at once; [`document`] reads what the node agent pushes and lays it over. All pure, but for
//! [`pools::load`]: callers read all other files.

pub mod document;
mod effective;
pub mod fail_policy;
mod line;
pub mod options;
pub mod origin;
pub mod policy_name;
pub mod pools;
pub mod print;
pub mod problem;
pub mod raw;
pub mod resolve;
pub mod resources;
pub mod value;

pub use document::{Document, overlay};
pub use effective::{
    Config, DumpConfig, DumpFormat, EnforceConfig, FenceMode, PolicyConfig, PoolsSource,
    RelayConfig, ResourcesFile, TelemetryConfig,
};
pub use fail_policy::{FailPolicies, OnFailure};
pub use origin::Origin;
pub use policy_name::PolicyName;
pub use problem::{Problem, Problems};
pub use raw::Raw;
pub use resolve::{Machine, resolve};
pub use resources::CpuAmount;
