//! JSON Schemas of the project's files.

pub fn project_json() -> String {
    "{}".to_owned()
}

pub fn pipeline_json() -> String {
    "{}".to_owned()
}
