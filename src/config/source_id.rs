//! Which name a hub has in every ledger.

use super::address::{host_and_port, is_loopback};
use super::connection_string::ConnectionString;
use super::spec::{EventHubsAccess, EventHubsSpec, GenerationSpec};
use crate::checkpoint::SourceId;

/// The first half of a source id on loopback, where `[event_hubs] id` isn't set.
const LOOPBACK_ID: &str = "emulator";

/// The namespaces of public Azure and of its sovereign clouds: their first label is the name.
const NAMESPACE_SUFFIXES: [&str; 3] =
    [".servicebus.windows.net", ".servicebus.chinacloudapi.cn", ".servicebus.usgovcloudapi.net"];

/// `<namespace>/<hub>[@<generation>]`, in lower case: Azure doesn't tell the case of either
/// apart, so a declaration that changes it must not begin a new history.
pub fn source_id(event_hubs: &EventHubsSpec, hub: &str, generation: Option<&GenerationSpec>) -> SourceId {
    let namespace = event_hubs
        .id
        .clone()
        .or_else(|| host_of(&event_hubs.access).and_then(|host| id_of_host(&host)))
        // A spec that was loaded has an id or a host that gives one.
        .unwrap_or_else(|| LOOPBACK_ID.to_owned());
    let hub = hub.to_lowercase();
    SourceId::new(match generation {
        Some(generation) => format!("{namespace}/{hub}@{}", generation.name),
        None => format!("{namespace}/{hub}"),
    })
}

/// The host of the namespace, lower case, without its port.
pub fn host_of(access: &EventHubsAccess) -> Option<String> {
    match access {
        EventHubsAccess::ConnectionString(text) => Some(text.reveal().parse::<ConnectionString>().ok()?.host),
        EventHubsAccess::Namespace { namespace, .. } => Some(host_and_port(namespace)?.0),
    }
}

/// The id that a host gives by itself; None for an alias or a private name.
pub(super) fn id_of_host(host: &str) -> Option<String> {
    if is_loopback(host) {
        return Some(LOOPBACK_ID.to_owned());
    }
    let labels = NAMESPACE_SUFFIXES.iter().find_map(|suffix| host.strip_suffix(suffix))?;
    labels.split('.').next().filter(|label| !label.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::spec::{CredentialSpec, Secret};
    use super::*;

    fn at(namespace: &str, id: Option<&str>) -> EventHubsSpec {
        let access =
            EventHubsAccess::Namespace { namespace: namespace.to_owned(), credential: CredentialSpec::Default };
        EventHubsSpec { access, id: id.map(str::to_owned), endpoint: None }
    }

    fn check(spec: &EventHubsSpec, hub: &str, expected: &str) {
        assert_eq!(source_id(spec, hub, None).as_str(), expected);
    }

    #[test]
    fn the_namespace_names_the_source() {
        check(&at("insurer.servicebus.windows.net", None), "leads", "insurer/leads");
        check(&at("Insurer.ServiceBus.windows.net:5671", None), "Leads", "insurer/leads");
        check(&at("insurer.privatelink.servicebus.windows.net", None), "leads", "insurer/leads");
        check(&at("localhost:5673", None), "leads", "emulator/leads");
        check(&at("127.0.0.1", Some("insurer")), "leads", "insurer/leads");
        check(&at("alias.example.com", Some("insurer")), "leads", "insurer/leads");
        let text = "Endpoint=sb://[::1]:5673;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true";
        let access = EventHubsAccess::ConnectionString(Secret::new(text));
        check(&EventHubsSpec { access, id: None, endpoint: None }, "leads", "emulator/leads");
    }

    #[test]
    fn a_generation_ends_the_source_id() {
        let generation = GenerationSpec { name: "2".to_owned(), since: chrono::DateTime::UNIX_EPOCH };
        let id = source_id(&at("insurer.servicebus.windows.net", None), "leads", Some(&generation));
        assert_eq!(id.as_str(), "insurer/leads@2");
    }
}
