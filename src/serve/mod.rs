//! What `sluice run` tells over HTTP: health, metrics, and a page to look at.
//!
//! | path | answers |
//! |---|---|
//! | `/` | the pipelines and their partitions, as a page; as JSON where `Accept` asks for it |
//! | `/healthz` | 200 for as long as the process answers: a restart would mend nothing else |
//! | `/readyz` | 200 once every pipeline is at work; else 503, naming those that aren't, and why |
//! | `/metrics` | Prometheus text |
//! | `/eventgrid` | the webhook, where one is declared: what Event Grid announces, see [`webhook`] |
//!
//! But for the webhook it only reads, and nothing that it tells is secret; still it listens on loopback
//! unless told otherwise.

mod guard;
mod page;
mod server;
mod token;
pub mod webhook;

pub use server::{ServeError, Server, start};
