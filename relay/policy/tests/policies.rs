//! Policies as their users see them: requests in, CPUs out, every step checked.

#[cfg(test)]
mod policies {
    mod common;
    mod creation;
    mod moves;
    mod rebalance;
    mod sequences;
    mod static_engine;
    mod stp;
}
