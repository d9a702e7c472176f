//! The roles that a project's sign-ins need on Azure: the least that will do.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::config::spec::{EventHubsAccess, ProjectSpec, RegistrySpec};
use crate::storage::Location;

/// One role at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Role {
    /// As Azure names it.
    pub role: &'static str,
    /// Where it is to be assigned.
    pub scope: String,
    /// What it is for.
    pub why: String,
}

/// The roles that the declared sign-ins with Entra need; what has keys or signatures needs none.
pub fn roles(project: &ProjectSpec) -> Vec<Role> {
    let mut roles = BTreeSet::new();
    let mut add = |role: &'static str, scope: String, why: String| {
        roles.insert(Role { role, scope, why });
    };
    if let Some(hubs) = &project.event_hubs
        && let EventHubsAccess::Namespace { namespace, .. } = &hubs.access
    {
        for pipeline in project.pipelines.iter().filter(|pipeline| pipeline.is_live) {
            let hub = &pipeline.source.hub;
            add(
                "Azure Event Hubs Data Receiver",
                format!("hub `{hub}` of `{namespace}`"),
                "reads its events".to_owned(),
            );
        }
    }
    if let Some(RegistrySpec::Azure { endpoint, .. }) = &project.registry
        && !endpoint.starts_with("http://")
    {
        add("Schema Registry Reader", format!("`{endpoint}`"), "reads the schemas of events".to_owned());
    }
    let azure = project.storage_azure.as_ref();
    let has_keys = azure.is_some_and(|azure| azure.account_key.is_some() || azure.sas_token.is_some());
    if has_keys {
        return roles.into_iter().collect();
    }
    let account = azure.and_then(|azure| azure.account_name.as_deref());
    let mut blobs = |role: &'static str, url: &str, why: &str| {
        if let Some(scope) = container(url, account) {
            add(role, scope, why.to_owned());
        }
    };
    const WRITES: &str = "Storage Blob Data Contributor";
    blobs(WRITES, &project.lake.url, "writes the tables");
    if !project.state.url.starts_with(&project.lake.url) {
        blobs(WRITES, &project.state.url, "keeps ownership, indexes and schemas");
    }
    for pipeline in &project.pipelines {
        if let Some(capture) = &pipeline.capture {
            blobs("Storage Blob Data Reader", &capture.url, "reads the blobs of Capture");
        }
        if let Some(store) = &pipeline.source.checkpoint_store {
            blobs(WRITES, store, "takes over and publishes checkpoints");
        }
    }
    for queue in project.pipelines.iter().filter_map(|pipeline| pipeline.capture.as_ref()?.queue.as_ref()) {
        add("Storage Queue Data Contributor", format!("`{queue}`"), "hears which blobs Capture wrote".to_owned());
    }
    roles.into_iter().collect()
}

/// The container of a URL on Azure.
fn container(url: &str, account: Option<&str>) -> Option<String> {
    let location = Location::resolve(url, None).ok()?;
    let url = location.url();
    let host = url.host_str()?;
    let (container, account) = match (url.username(), host.split_once('.')) {
        ("", _) => (host, account?),
        (container, Some((account, _))) => (container, account),
        (container, None) => (container, host),
    };
    Some(format!("container `{container}` of the storage account `{account}`"))
}
