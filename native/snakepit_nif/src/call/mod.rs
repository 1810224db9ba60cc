//! The functions a call goes through: a term becomes a frame, a frame becomes a term.

mod control;
mod encode;
mod reply;
mod request;

/// A path as a user reads it: `args["items"][3].x`.
fn path_text(root: &str, steps: &[String]) -> String {
    steps.iter().rev().fold(root.to_owned(), |text, step| text + step)
}
