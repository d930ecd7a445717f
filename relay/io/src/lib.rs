//! What the processes of this project read and write at their edges, bounded: files that a user named, Unix
//! sockets, HTTP connections and the metrics page, standard error; and what the process itself uses.
//!
//! Each bound is written down here once, and each is counted where it is met. docs/security.md says which
//! process uses which.

pub mod file;
pub mod http;
pub mod metrics;
pub mod process;
pub mod socket;
pub mod stderr;
