//! Our own gRPC API: configuration in, node operations out.
