//! Tables made of tables, by SQL.
//!
//! ```text
//! [[transform]] ─▶ sql: one query, its inputs, STREAM(…) ─▶ plan: columns and types ─▶ graph: what before what
//! ```
//!
//! The contract of planning:
//!
//! * [`parse`] needs the SQL alone. [`STREAM(bronze.leads)`](Input::is_streamed) becomes a table of its own, under a
//!   name that no report shows; whoever plans says with [`register`] what each input is: empty tables with the
//!   declared columns for a check, snapshots and new rows for a run.
//! * Names are taken as they are written, and [`session_config`] is the same for a check and for a run.
//! * A mistake is a value with the bytes of the SQL that it is about, and as many are found at once as can be.

pub mod check;
pub mod given;
pub mod graph;
pub mod run;

mod changes;
mod condition;
mod diagnose;
mod explain;
mod notes;
mod output;
mod place;
mod plan;
mod session;
mod sql;
mod words;

pub use crate::catalog::sql::SqlProblem;
pub use condition::condition;
pub use explain::{Explained, explain};
pub use graph::Graph;
pub use notes::notes;
pub use output::{HISTORY_COLUMNS, Output, plain_schema, table_schema};
pub use place::place_of_column;
pub use plan::{checked, columns_read, logical_plan, planned};
pub use session::{CATALOG, register, session, session_config};
pub use sql::{Input, Parsed, parse, parse_query};
