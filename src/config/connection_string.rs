//! `Endpoint=sb://host;SharedAccessKeyName=…;SharedAccessKey=…`, as the portal gives it.

use super::address::{host_and_port, is_loopback};
use super::spec::Secret;

/// A connection string of an Event Hubs namespace, or of one hub in it, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionString {
    /// Lower case, without the port.
    pub host: String,
    pub port: Option<u16>,
    pub sign_in: SharedAccess,
    /// The hub that the string is for, where it isn't for the whole namespace.
    pub entity_path: Option<String>,
    /// `UseDevelopmentEmulator=true`: plaintext, on loopback alone.
    pub use_development_emulator: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedAccess {
    Key { name: String, key: Secret },
    Signature(Secret),
}

/// Why a text isn't a connection string; never holds any of its values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionStringError {
    #[error("part {number} is not of the form `name=value`")]
    Part { number: usize },
    #[error("`{name}` is there twice")]
    Twice { name: &'static str },
    #[error("`{name}` is missing")]
    Missing { name: &'static str },
    #[error("its `Endpoint` is not of the form `sb://host/`")]
    Endpoint,
    #[error("`UseDevelopmentEmulator=true` means plaintext, and `{host}` isn't loopback")]
    NotLoopback { host: String },
}

const NAMES: [&str; 6] = [
    "Endpoint",
    "SharedAccessKeyName",
    "SharedAccessKey",
    "SharedAccessSignature",
    "EntityPath",
    "UseDevelopmentEmulator",
];

impl std::str::FromStr for ConnectionString {
    type Err = ConnectionStringError;

    /// # Errors
    /// The first mistake.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut values: [Option<&str>; NAMES.len()] = [None; NAMES.len()];
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        for (index, part) in parts.enumerate() {
            let (name, value) = part.split_once('=').ok_or(ConnectionStringError::Part { number: index + 1 })?;
            // Names that we don't know are other services' and of no use here.
            let known = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name.trim()));
            if let Some(known) = known
                && values[known].replace(value.trim()).is_some()
            {
                return Err(ConnectionStringError::Twice { name: NAMES[known] });
            }
        }
        let [endpoint, key_name, key, signature, entity_path, emulator] =
            values.map(|value| value.filter(|value| !value.is_empty()));
        let required =
            |value: Option<&str>, name| value.map(str::to_owned).ok_or(ConnectionStringError::Missing { name });

        let endpoint = required(endpoint, "Endpoint")?;
        let address = endpoint.strip_prefix("sb://").ok_or(ConnectionStringError::Endpoint)?.trim_end_matches('/');
        let (host, port) = host_and_port(address).ok_or(ConnectionStringError::Endpoint)?;
        let use_development_emulator = emulator.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if use_development_emulator && !is_loopback(&host) {
            return Err(ConnectionStringError::NotLoopback { host });
        }
        let sign_in = match signature {
            Some(signature) => SharedAccess::Signature(Secret::new(signature)),
            None => SharedAccess::Key {
                name: required(key_name, "SharedAccessKeyName")?,
                key: Secret::new(required(key, "SharedAccessKey")?),
            },
        };
        Ok(Self { host, port, sign_in, entity_path: entity_path.map(str::to_owned), use_development_emulator })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_connection_string_is_taken_apart() {
        let text = "Endpoint=sb://Insurer.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=a+b/c==;EntityPath=leads";
        let parsed: ConnectionString = text.parse().expect("the portal's form");
        assert_eq!(parsed.host, "insurer.servicebus.windows.net");
        assert_eq!(parsed.port, None);
        assert_eq!(parsed.sign_in, SharedAccess::Key { name: "n".to_owned(), key: Secret::new("a+b/c==") });
        assert_eq!(parsed.entity_path.as_deref(), Some("leads"));
        assert!(!parsed.use_development_emulator);
    }

    #[test]
    fn the_emulator_s_own_string_works() {
        let text = "Endpoint=sb://localhost:5673;SharedAccessKeyName=RootManageSharedAccessKey;\
                    SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;";
        let parsed: ConnectionString = text.parse().expect("the official emulator's form");
        assert_eq!((parsed.host.as_str(), parsed.port), ("localhost", Some(5673)));
        assert!(parsed.use_development_emulator);
    }

    #[test]
    fn each_mistake_has_its_name() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<ConnectionString>().expect_err(text);
            assert_eq!(error.to_string(), expected);
        };
        check("", "`Endpoint` is missing");
        check("Endpoint=sb://h/;secret", "part 2 is not of the form `name=value`");
        check("Endpoint=https://h/;", "its `Endpoint` is not of the form `sb://host/`");
        check("Endpoint=sb://h/;SharedAccessKeyName=n", "`SharedAccessKey` is missing");
        check("Endpoint=sb://h/;Endpoint=sb://i/", "`Endpoint` is there twice");
        check(
            "Endpoint=sb://h.example/;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true",
            "`UseDevelopmentEmulator=true` means plaintext, and `h.example` isn't loopback",
        );
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused_without_a_panic(text in "\\PC{0,80}") {
            let _ = text.parse::<ConnectionString>();
            let _ = format!("Endpoint=sb://{text};SharedAccessKeyName=n;SharedAccessKey=k").parse::<ConnectionString>();
        }
    }
}
