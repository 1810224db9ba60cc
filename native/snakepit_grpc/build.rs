//! Generates the messages from `proto/`, without a protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    // The library has threads of its own: a VM that unloads it (when the module is purged) would pull the code away
    // from under them.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    let files = protox::compile(["snakepit.proto", "health.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Bytes: fields refer to the message as it was received.
        .bytes(".")
        // The library sends its requests itself, without copying them into a message first.
        .build_client(false)
        // The tests have a server to talk to.
        .server_mod_attribute(".", "#[cfg(test)]")
        .compile_fds(files)?;
    Ok(())
}
