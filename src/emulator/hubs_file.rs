//! Hubs from outside: the `config.json` of Microsoft's own emulator, and `NAME:PARTITIONS` flags.
//!
//! ```json
//! {"UserConfig":{"NamespaceConfig":[{"Type":"EventHub","Name":"emulatorNs1","Entities":[
//!   {"Name":"leads","PartitionCount":4,"ConsumerGroups":[{"Name":"lakehouse"}]}]}]}}
//! ```
//!
//! Its samples write `PartitionCount` as a number or as a string; both are read. Keys that say
//! nothing about hubs (`LoggingConfig`) are let be.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};

use super::HubSpec;
use crate::error::{Classify, Kind};

/// What such a file declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubsFile {
    pub namespace: String,
    pub hubs: Vec<HubSpec>,
}

impl HubsFile {
    /// # Errors
    /// When the file can't be read, or doesn't declare one namespace with hubs.
    pub fn open(path: &Path) -> Result<Self, HubsFileError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| HubsFileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, HubsFileError> {
        let document: Document =
            serde_json::from_str(text).map_err(|source| HubsFileError::Form { path: path.to_owned(), source })?;
        let mut namespaces = document.user_config.namespace_config;
        let (Some(namespace), true) = (namespaces.pop(), namespaces.is_empty()) else {
            return Err(HubsFileError::Namespaces { path: path.to_owned() });
        };
        let hubs = namespace.entities.into_iter().map(|entity| HubSpec {
            name: entity.name,
            partitions: entity.partition_count,
            consumer_groups: entity.consumer_groups.into_iter().map(|group| group.name).collect(),
        });
        Ok(Self { namespace: namespace.name, hubs: hubs.collect() })
    }
}

/// `NAME:PARTITIONS`, as in `leads:4`.
///
/// # Errors
/// Words for the user.
pub fn parse_hub(text: &str) -> Result<HubSpec, String> {
    let wrong = || format!("`{text}` is not of the form `NAME:PARTITIONS`, as in `leads:4`");
    let (name, partitions) = text.rsplit_once(':').ok_or_else(wrong)?;
    let partitions = partitions.parse::<u32>().map_err(|_| wrong())?;
    if name.is_empty() || partitions == 0 {
        return Err(wrong());
    }
    Ok(HubSpec::new(name, partitions))
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "UserConfig")]
    user_config: UserConfig,
}

#[derive(Deserialize)]
struct UserConfig {
    #[serde(rename = "NamespaceConfig")]
    namespace_config: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Entities")]
    entities: Vec<Entity>,
}

#[derive(Deserialize)]
struct Entity {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "PartitionCount", deserialize_with = "number_or_text")]
    partition_count: u32,
    #[serde(rename = "ConsumerGroups", default)]
    consumer_groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(rename = "Name")]
    name: String,
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(u32),
        Text(String),
    }
    match NumberOrText::deserialize(deserializer)? {
        NumberOrText::Number(number) => Ok(number),
        NumberOrText::Text(text) => {
            text.trim().parse().map_err(|_| de::Error::custom(format!("`PartitionCount` is `{text}`, not a number")))
        }
    }
}

/// Why a file doesn't give hubs.
#[derive(Debug, thiserror::Error)]
pub enum HubsFileError {
    #[error("can't read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` is not a configuration of the Event Hubs emulator", path.display())]
    Form {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{}` doesn't declare exactly one namespace", path.display())]
    Namespaces { path: PathBuf },
}

impl Classify for HubsFileError {
    fn kind(&self) -> Kind {
        Kind::Config
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => None,
            Self::Form { .. } | Self::Namespaces { .. } => Some(
                "it looks like {\"UserConfig\":{\"NamespaceConfig\":[{\"Name\":\"emulatorNs1\",\"Entities\":[{\"Name\":\"leads\",\"PartitionCount\":4}]}]}}"
                    .to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<HubsFile, HubsFileError> {
        HubsFile::parse(text, Path::new("config.json"))
    }

    #[test]
    fn both_forms_of_the_official_file_are_read() {
        let number = r#"{"UserConfig":{"NamespaceConfig":[{"Type":"EventHub","Name":"emulatorNs1",
            "Entities":[{"Name":"eh1","PartitionCount":2,"ConsumerGroups":[{"Name":"cg1"}]}]}],
            "LoggingConfig":{"Type":"File"}}}"#;
        let expected = HubSpec { name: "eh1".into(), partitions: 2, consumer_groups: vec!["cg1".into()] };
        assert_eq!(parse(number).unwrap(), HubsFile { namespace: "emulatorNs1".into(), hubs: vec![expected] });
        assert_eq!(parse(&number.replace(":2,", ":\"2\",")).unwrap(), parse(number).unwrap());
    }

    #[test]
    fn what_is_not_such_a_file_is_an_error_with_a_hint() {
        let hub = r#"{"Name":"n","Entities":[{"Name":"a","PartitionCount":"two"}]}"#;
        for text in [
            "{}".to_owned(),
            "[".to_owned(),
            r#"{"UserConfig":{"NamespaceConfig":[]}}"#.to_owned(),
            format!(r#"{{"UserConfig":{{"NamespaceConfig":[{hub}]}}}}"#),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.hint().is_some(), "{text}: {error}");
        }
    }

    #[test]
    fn flags_name_a_hub_and_its_partitions() {
        assert_eq!(parse_hub("leads:4"), Ok(HubSpec::new("leads", 4)));
        for wrong in ["leads", "leads:", "leads:0", ":4", "leads:-1", "leads:many"] {
            assert!(parse_hub(wrong).unwrap_err().contains("NAME:PARTITIONS"), "{wrong}");
        }
    }
}
