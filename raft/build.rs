//! Compiles `proto/raft.proto` with `protox`, so that no system `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `compile_fds` knows no files, so cargo has to be told what to watch.
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/raft.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
