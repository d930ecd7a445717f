//! The wanted state on disk. The only module that writes the state file.
