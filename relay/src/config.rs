//! From words as typed to a configuration that is legal on this machine.
