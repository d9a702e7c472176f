//! Arrays along their way into a table's columns, and what is left of them.
//!
//! What is left is an array too, of the values' own types, with null wherever nothing is left: so a
//! struct of which one field didn't fit leaves that field alone.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, MapArray, StructArray, UInt32Array, new_null_array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{CastOptions, cast_with_options, not, nullif, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::error::ArrowError;

use super::way::{RecordWay, Source, Way};

/// What a value can't be cast to is null.
const CAST: CastOptions<'static> =
    CastOptions { safe: true, format_options: arrow::util::display::FormatOptions::new() };

/// Fields of which something is left.
pub(super) type Left = Vec<(FieldRef, ArrayRef)>;

pub(super) struct Fitted {
    pub(super) column: ArrayRef,
    /// What the column can't hold; nothing where it holds all.
    pub(super) left: Option<ArrayRef>,
}

impl Fitted {
    fn whole(column: ArrayRef) -> Self {
        Self { column, left: None }
    }
}

impl Way {
    /// # Errors
    /// [`ArrowError`] only when the arrays contradict their own types.
    pub(super) fn fit(&self, array: &ArrayRef, wanted: &DataType) -> Result<Fitted, ArrowError> {
        match (self, wanted) {
            (Self::Same, _) => Ok(Fitted::whole(Arc::clone(array))),
            (Self::Cast, _) => cast_exactly(array, wanted),
            (Self::Record(way), DataType::Struct(columns)) => way.fit_struct(array.as_struct(), columns),
            (Self::List(way), DataType::List(element)) => fit_list(way, array.as_list(), element),
            (Self::Map(way), DataType::Map(entries, sorted)) => fit_map(way, array.as_map(), entries, *sorted),
            (Self::OutOf(branch, way), _) => out_of(way, *branch, array.as_struct(), wanted),
            (Self::Into(branch, way), DataType::Struct(columns)) => into(way, *branch, array, columns),
            _ => {
                let left = (array.null_count() < array.len()).then(|| Arc::clone(array));
                Ok(Fitted { column: new_null_array(wanted, array.len()), left })
            }
        }
    }
}

impl RecordWay {
    /// The table's columns, and the fields that are left, each with its name.
    pub(super) fn fit(
        &self,
        fields: &Fields,
        arrays: &[ArrayRef],
        columns: &Fields,
        rows: usize,
    ) -> Result<(Vec<ArrayRef>, Left), ArrowError> {
        let mut fitted = Vec::with_capacity(columns.len());
        let mut left = Vec::new();
        for (source, column) in self.columns.iter().zip(columns) {
            fitted.push(match source {
                Source::Missing(None) => new_null_array(column.data_type(), rows),
                Source::Missing(Some(default)) => take(default, &UInt32Array::from(vec![0; rows]), None)?,
                Source::Given(at, way) => {
                    let fitted = way.fit(&arrays[*at], column.data_type())?;
                    left.extend(fitted.left.map(|left| (named(column.name(), &left), left)));
                    fitted.column
                }
            });
        }
        for at in &self.surplus {
            let array = &arrays[*at];
            if array.null_count() < array.len() {
                left.push((named(fields[*at].name(), array), Arc::clone(array)));
            }
        }
        Ok((fitted, left))
    }

    fn fit_struct(&self, array: &StructArray, columns: &Fields) -> Result<Fitted, ArrowError> {
        let (fitted, left) = self.fit(array.fields(), array.columns(), columns, array.len())?;
        let column = StructArray::try_new_with_length(columns.clone(), fitted, array.nulls().cloned(), array.len())?;
        Ok(Fitted { column: Arc::new(column), left: struct_of(left, array.nulls(), array.len())? })
    }
}

fn named(name: &str, array: &ArrayRef) -> FieldRef {
    Arc::new(Field::new(name, array.data_type().clone(), true))
}

/// A struct of what is left, null where nothing is; none where that is everywhere.
fn struct_of(left: Left, nulls: Option<&NullBuffer>, rows: usize) -> Result<Option<ArrayRef>, ArrowError> {
    let mut is_left = BooleanBuffer::new_unset(rows);
    for (_, array) in &left {
        let valid = array.nulls().map_or_else(|| BooleanBuffer::new_set(rows), |nulls| nulls.inner().clone());
        is_left = &is_left | &valid;
    }
    if let Some(nulls) = nulls {
        is_left = &is_left & nulls.inner();
    }
    if is_left.count_set_bits() == 0 {
        return Ok(None);
    }
    let (fields, arrays): (Vec<_>, Vec<_>) = left.into_iter().unzip();
    Ok(Some(Arc::new(StructArray::try_new(fields.into(), arrays, Some(NullBuffer::new(is_left)))?)))
}

/// What comes back as it was has lost nothing.
fn cast_exactly(array: &ArrayRef, wanted: &DataType) -> Result<Fitted, ArrowError> {
    let column = cast_with_options(array, wanted, &CAST)?;
    let back = cast_with_options(&column, array.data_type(), &CAST)?;
    let is_lost = distinct(array, &back)?;
    if is_lost.true_count() == 0 {
        return Ok(Fitted::whole(column));
    }
    Ok(Fitted { column: nullif(&column, &is_lost)?, left: Some(nullif(array, &not(&is_lost)?)?) })
}

/// Which lists have an item that is left.
fn rows_left(offsets: &OffsetBuffer<i32>, nulls: Option<&NullBuffer>, items: &ArrayRef) -> Option<NullBuffer> {
    let is_left = |(row, span): (usize, &[i32])| {
        let mut span = span[0] as usize..span[1] as usize;
        nulls.is_none_or(|nulls| nulls.is_valid(row)) && span.any(|at| items.is_valid(at))
    };
    let is_left: BooleanBuffer = offsets.windows(2).enumerate().map(is_left).collect();
    (is_left.count_set_bits() > 0).then(|| NullBuffer::new(is_left))
}

fn fit_list(way: &Way, list: &ListArray, element: &FieldRef) -> Result<Fitted, ArrowError> {
    let Fitted { column, left } = way.fit(list.values(), element.data_type())?;
    let offsets = list.offsets();
    let column = ListArray::try_new(Arc::clone(element), offsets.clone(), column, list.nulls().cloned())?;
    let left = match left {
        None => None,
        Some(items) => match rows_left(offsets, list.nulls(), &items) {
            None => None,
            rows => {
                let item = named(element.name(), &items);
                Some(Arc::new(ListArray::try_new(item, offsets.clone(), items, rows)?) as ArrayRef)
            }
        },
    };
    Ok(Fitted { column: Arc::new(column), left })
}

fn fit_map(way: &Way, map: &MapArray, entries: &FieldRef, sorted: bool) -> Result<Fitted, ArrowError> {
    let DataType::Struct(pair) = entries.data_type() else {
        return Err(ArrowError::SchemaError(format!("the entries of a map are {}", entries.data_type())));
    };
    let offsets = map.offsets();
    let Fitted { column, left } = way.fit(map.values(), pair[1].data_type())?;
    let of = |pair: Fields, values: ArrayRef, nulls: Option<NullBuffer>| -> Result<ArrayRef, ArrowError> {
        let entries = Field::new(entries.name(), DataType::Struct(pair.clone()), false);
        let held = StructArray::try_new(pair, vec![Arc::clone(map.keys()), values], None)?;
        Ok(Arc::new(MapArray::try_new(Arc::new(entries), offsets.clone(), held, nulls, sorted)?))
    };
    let left = match left {
        None => None,
        Some(values) => match rows_left(offsets, map.nulls(), &values) {
            None => None,
            rows => Some(of(Fields::from(vec![Arc::clone(&pair[0]), named(pair[1].name(), &values)]), values, rows)?),
        },
    };
    Ok(Fitted { column: of(pair.clone(), column, map.nulls().cloned())?, left })
}

fn out_of(way: &Way, branch: usize, union: &StructArray, wanted: &DataType) -> Result<Fitted, ArrowError> {
    let Fitted { column, left } = way.fit(union.column(branch), wanted)?;
    let of_branch = left.map(|left| (named(union.fields()[branch].name(), &left), left));
    let others = union
        .fields()
        .iter()
        .zip(union.columns())
        .enumerate()
        .filter(|(at, (_, array))| *at != branch && array.null_count() < array.len());
    let others = others.map(|(_, (field, array))| (Arc::clone(field), Arc::clone(array)));
    Ok(Fitted { column, left: struct_of(of_branch.into_iter().chain(others).collect(), union.nulls(), union.len())? })
}

fn into(way: &Way, branch: usize, array: &ArrayRef, columns: &Fields) -> Result<Fitted, ArrowError> {
    let Fitted { column, left } = way.fit(array, columns[branch].data_type())?;
    let nulls = column.nulls().cloned();
    let branches = columns.iter().enumerate().map(|(at, field)| match at == branch {
        true => Arc::clone(&column),
        false => new_null_array(field.data_type(), array.len()),
    });
    let column = StructArray::try_new(columns.clone(), branches.collect(), nulls)?;
    Ok(Fitted { column: Arc::new(column), left })
}

/// Rows of which something is left.
pub(super) fn count(left: &ArrayRef) -> u64 {
    (left.len() - left.null_count()) as u64
}

/// Which rows have anything left.
pub(super) fn any_left(left: &[(FieldRef, ArrayRef)], rows: usize) -> BooleanArray {
    let of_one =
        |array: &ArrayRef| array.nulls().map_or_else(|| BooleanBuffer::new_set(rows), |nulls| nulls.inner().clone());
    let all = left.iter().fold(BooleanBuffer::new_unset(rows), |all, (_, array)| &all | &of_one(array));
    BooleanArray::new(all, None)
}
