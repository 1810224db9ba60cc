//! Statistics of a stream that may be looked at after every sample: nothing here needs a number of samples that is fixed
//! before.
//!
//! | module | question |
//! |---|---|
//! | [`page_hinkley`] | has the mean of a stream moved? |
//! | [`means`] | which of two streams has the smaller mean? |

pub mod means;
pub mod page_hinkley;
