//! Snakepit's gRPC client as a NIF library of its own, loaded when a pool first needs it.
//!
//! No function of it blocks: each hands its work to the runtime's threads and returns; the answer is a message to the
//! process that called. `Snakepit.Grpc.Native` documents the functions and messages.

mod client;
mod failure;
mod wire;

// These need the symbols of a BEAM, which a test program lacks.
#[cfg(not(test))]
mod beam;
#[cfg(not(test))]
mod nif;
#[cfg(not(test))]
mod runtime;

#[cfg(test)]
mod tests;

mod proto {
    // The generator's code is not ours to lint.
    #[allow(clippy::all, missing_docs)]
    pub mod snakepit {
        tonic::include_proto!("snakepit.v1");
    }
    #[allow(clippy::all, missing_docs)]
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }
}
