//! Compiles the protobuf definitions, without a `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        ["proto/metadata.proto", "proto/admin.proto", "proto/backup.proto"],
        ["proto"],
    )?;
    tonic_prost_build::configure().btree_map(".").compile_fds(files)?;
    Ok(())
}
