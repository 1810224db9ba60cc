//! The error that a caller gets when a call fails.

use std::error::Error;
use tonic::{Code, Status};

/// The name of a status code as the BEAM knows it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// The code of a failure. A connection that broke in the middle of a call comes from tonic as "unknown", or as an error
/// of HTTP/2; only what the peer itself said has no cause.
pub fn code(status: &Status) -> Code {
    let mut cause = status.source();
    if status.code() == Code::Unknown && cause.is_some() {
        return Code::Unavailable;
    }
    while let Some(error) = cause {
        if error.is::<std::io::Error>() {
            return Code::Unavailable;
        }
        cause = error.source();
    }
    status.code()
}

/// The message, with the causes that tonic keeps to itself: its own "transport error" alone helps nobody.
pub fn describe(status: &Status) -> String {
    let mut parts = vec![status.message().to_string()];
    let mut cause = status.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if message != "transport error" && !parts.contains(&message) {
            parts.push(message);
        }
        cause = error.source();
    }
    parts.retain(|part| !part.is_empty());
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own() {
        let names: Vec<_> = (0..17).map(|code| code_name(Code::from_i32(code))).collect();
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), 17);
        assert_eq!((names[4], names[14]), ("deadline_exceeded", "unavailable"));
        // A code that a peer invents is unknown.
        assert_eq!(code_name(Code::from_i32(99)), "unknown");
    }

    #[test]
    fn a_broken_connection_is_unavailable() {
        let broken = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(code(&Status::from_error(Box::new(broken()))), Code::Unavailable);
        let mut inside = Status::internal("h2");
        inside.set_source(std::sync::Arc::new(broken()));
        assert_eq!(code(&inside), Code::Unavailable);
        // The code that the peer gave stays.
        for said in [Code::Unknown, Code::Internal, Code::ResourceExhausted, Code::Unavailable] {
            assert_eq!(code(&Status::new(said, "no")), said);
        }
    }

    #[test]
    fn causes_are_named_once() {
        let cause = std::io::Error::other("no such socket");
        assert_eq!(describe(&Status::from_error(Box::new(cause))), "no such socket");
    }
}
