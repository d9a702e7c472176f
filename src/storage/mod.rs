//! storage

pub mod credential;
