//! The columns of tables as far as they are known without data and without network.
//!
//! Of a bronze table, the first of these that says anything:
//!
//! | | what the table has |
//! |---|---|
//! | `format = "raw"`, `format = "json"` without a schema | the body |
//! | `[decode] schema`, `columns_from` | the fields of these schemas |
//! | `[registry.folder]` | the fields of all schemas in it: which of them a hub carries is not known |
//! | the lake, where it is a folder | the columns of the table that is there |
//! | the registry's cache in the state folder | the fields of all schemas that were ever met |
//!
//! Declarations come before the lake, so that a check says what a new schema breaks before it is deployed.

use std::path::Path;

use arrow::datatypes::{Schema, SchemaRef};

use super::PipelineError;
use super::setup::Places;
use crate::catalog::Catalog;
use crate::config::spec::{Format, PipelineSpec, ProjectSpec, RegistrySpec, TableName};
use crate::decode::{arrow_schema_of, folder_texts, raw_schema, text_schema};
use crate::sink::delta::schema::{Changes, union};
use crate::transform::plain_schema;

/// What is declared of the columns of a pipeline's table; none where only events and registries say.
///
/// # Errors
/// When a schema file can't be read or used.
pub fn declared(pipeline: &PipelineSpec) -> Result<Option<SchemaRef>, PipelineError> {
    let files = pipeline.decode.schema.iter().chain(&pipeline.decode.columns_from);
    match pipeline.decode.format {
        Format::Raw => return Ok(Some(raw_schema())),
        Format::Json if pipeline.decode.schema.is_none() => return Ok(Some(text_schema())),
        Format::Avro | Format::Json => {}
    }
    let mut joined: Option<SchemaRef> = None;
    for path in files {
        let text =
            std::fs::read_to_string(path).map_err(|source| PipelineError::File { path: path.clone(), source })?;
        joined = Some(with(joined, arrow_schema_of(&text)?));
    }
    Ok(joined)
}

/// The columns of a table of a pipeline, as far as anything on this machine says them.
///
/// # Errors
/// Files that can't be read or used.
pub async fn known(
    project: &ProjectSpec,
    pipeline: &PipelineSpec,
    table: &TableName,
    places: &Places,
) -> Result<Option<SchemaRef>, PipelineError> {
    if let Some(schema) = declared(pipeline)? {
        return Ok(Some(schema));
    }
    if let Some(RegistrySpec::Folder { path }) = &project.registry
        && let Some(schema) = of_folder(path, pipeline)?
    {
        return Ok(Some(schema));
    }
    if let Some(schema) = in_lake(table, places).await? {
        return Ok(Some(schema));
    }
    match places.state.join("schemas").folder().filter(|folder| folder.is_dir()) {
        Some(folder) => of_folder(&folder, pipeline),
        None => Ok(None),
    }
}

/// The columns of a table of a lake that is a folder; none where there is no such table, or the lake is elsewhere.
///
/// # Errors
/// A table that is there and can't be read.
pub async fn in_lake(table: &TableName, places: &Places) -> Result<Option<SchemaRef>, PipelineError> {
    if places.lake.folder().is_none() {
        return Ok(None);
    }
    of_table(table, places).await
}

/// The columns of a table that is there, wherever the lake is.
///
/// # Errors
/// A table that is there and can't be read.
pub async fn of_table(table: &TableName, places: &Places) -> Result<Option<SchemaRef>, PipelineError> {
    let opened = Catalog::new(&places.lake).open(table, None).await?;
    // A scan has other types than the table: views, dictionaries.
    Ok(opened.map(|table| plain_schema(&table.provider.schema())))
}

/// The union of a folder's schemas. Where two have a field of one name and of different types, the one that is named
/// like the pipeline's hub or table decides.
fn of_folder(folder: &Path, pipeline: &PipelineSpec) -> Result<Option<SchemaRef>, PipelineError> {
    let texts = folder_texts(folder)?;
    let stems = [&pipeline.source.hub, &pipeline.sink.table.table, &pipeline.name].map(|name| {
        let name = name.to_lowercase();
        name.strip_suffix('s').map_or(name.clone(), str::to_owned)
    });
    let is_of_pipeline = |path: &Path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
        stems.iter().any(|stem| name.contains(stem.as_str()))
    };
    let (own, others): (Vec<_>, Vec<_>) = texts.into_iter().partition(|(path, _)| is_of_pipeline(path));
    let mut joined: Option<SchemaRef> = None;
    for (_, text) in own.into_iter().chain(others) {
        // A schema that has no columns of ours is nobody's here: its events are rejected.
        if let Ok(schema) = arrow_schema_of(&text) {
            joined = Some(with(joined, schema));
        }
    }
    Ok(joined)
}

fn with(joined: Option<SchemaRef>, schema: SchemaRef) -> SchemaRef {
    match joined {
        None => schema,
        Some(joined) => union(&joined, &schema, &mut Changes::default()).map_or(joined, |schema: Schema| schema.into()),
    }
}
