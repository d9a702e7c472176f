//! `[[route]]` of a pipeline file.

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::text::{DurationText, SizeText, TableText};

/// Some of the events, to a table of their own, with a ledger of its own. Routes are tried in the order in which they stand,
/// and the first that fits takes the event; what none takes goes to the table of `[sink]`. All conditions of a
/// route must hold; one without any takes all that comes so far. Exactly one of `table`, `filter` and `reject` says
/// where to. An event that can't be decoded has no `schema`; the other conditions hold for it as for any.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RouteTable {
    /// The full name of the Avro record that the event was written with, as `insurer.leads.LeadGenerated`.
    pub schema: Option<String>,
    /// The type of the CloudEvent; `*` stands for any number of characters: `insurer.lead.*`.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    pub property: Option<PropertyTable>,
    /// A condition in SQL over the columns of the envelope, as `_event_source = '/web' AND _properties['tenant'] = 'blue'`.
    /// Columns of the payload, `_record_index` and `_rescued` can't be used: an event goes as a whole. Where the
    /// condition is null it doesn't hold.
    pub when: Option<String>,
    /// The table, as `bronze.clicks`; several routes may name the same. It is made by the first commit, and what of it
    /// could not become a row goes to `<table>__dead_letters`.
    pub table: Option<TableText>,
    /// Leaves the events out: they are counted as `filtered`, and never read again.
    pub filter: Option<bool>,
    /// Makes dead letters of the events, with the class `no_route`, beside the table of `[sink]`.
    pub reject: Option<bool>,
    /// As in `[sink]`, for this table.
    #[schemars(extend("x-default-words" = "as in `[sink]`"))]
    pub commit_every: Option<DurationText>,
    /// As in `[sink]`, for this table.
    #[schemars(extend("x-default-words" = "as in `[sink]`"))]
    pub commit_bytes: Option<SizeText>,
    /// As in `[sink]`, for this table.
    #[schemars(extend("x-default-words" = "as in `[sink]`"))]
    pub coverage_every: Option<DurationText>,
}

/// A property of the event that must have this value, as text: `property = { name = "tenant", value = "blue" }`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PropertyTable {
    /// The property's name.
    #[schemars(required)]
    pub name: Option<String>,
    /// Its whole value.
    #[schemars(required)]
    pub value: Option<String>,
}
