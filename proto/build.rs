//! Generates the gRPC code in Rust alone: no protoc needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/v1/config.proto", "proto/v1/agent.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
