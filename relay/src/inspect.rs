//! Read-only views: state, explain, top.
