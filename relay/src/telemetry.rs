//! What the scheduler really did to each container, by BPF or the next best.
