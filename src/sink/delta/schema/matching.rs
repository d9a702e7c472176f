//! Which column a field belongs to.
//!
//! | a field's values go into | |
//! |---|---|
//! | the column that was made of a field of its name | case counts: `id` and `ID` are two fields |
//! | else the column of one of its aliases | a field that was renamed keeps its column, and the column its name |
//! | else a column that knows its name, or one of its aliases, as an alias | so old names lead there too |
//! | else a column of its own | |
//!
//! A column takes one field of a record: fields of its own name come first, then the record's order.

use std::collections::HashMap;

use arrow::datatypes::{Field, Fields};

use crate::batch::bronze;
use crate::columns::{Level, aliases, field_name};

/// For each field of `new` the place of its column among `held`.
pub(super) fn columns_of(held: &Fields, new: &Fields, level: Level) -> Vec<Option<usize>> {
    let by_name: HashMap<Key, usize> =
        held.iter().enumerate().map(|(at, column)| (Key::of(column, level), at)).collect();
    let mut taken = vec![false; held.len()];
    let mut found: Vec<_> = new.iter().map(|field| by_name.get(&Key::of(field, level)).copied()).collect();
    for at in found.iter().flatten() {
        taken[*at] = true;
    }
    if found.iter().all(Option::is_some) {
        return found;
    }
    let mut by_alias: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, column) in held.iter().enumerate() {
        for alias in aliases(column) {
            by_alias.entry(alias).or_default().push(at);
        }
    }
    for (field, found) in new.iter().zip(&mut found) {
        let Key::Field(name) = Key::of(field, level) else { continue };
        if found.is_some() {
            continue;
        }
        let own = aliases(field);
        let of_aliases = own.iter().filter_map(|alias| by_name.get(&Key::Field(alias.clone())).copied());
        let that_know =
            [&name].into_iter().chain(&own).flat_map(|name| by_alias.get(name).into_iter().flatten().copied());
        let free = of_aliases.chain(that_know).find(|at| !taken[*at]);
        if let Some(at) = free {
            taken[at] = true;
            *found = Some(at);
        }
    }
    found
}

/// What a column is known by.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// One of the envelope's, which no field of a payload can be.
    Envelope(String),
    /// The field that it was made of.
    Field(String),
}

impl Key {
    pub(super) fn of(column: &Field, level: Level) -> Self {
        let name = column.name();
        match level {
            Level::Top if is_envelope(column) => Self::Envelope(name.clone()),
            Level::Top | Level::Nested => Self::Field(field_name(name)),
        }
    }
}

pub(super) fn is_envelope(column: &Field) -> bool {
    bronze::fields().iter().any(|held| held.name() == column.name())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;
    use crate::columns::with_aliases;

    /// Columns as `name` or `name=alias,alias`.
    fn columns(texts: &[&str]) -> Fields {
        let column = |text: &&str| {
            let (name, others) = text.split_once('=').unwrap_or((text, ""));
            let others: Vec<String> = others.split(',').filter(|alias| !alias.is_empty()).map(str::to_owned).collect();
            with_aliases(Field::new(name, DataType::Utf8, true), &others)
        };
        texts.iter().map(column).collect::<Vec<_>>().into()
    }

    #[test]
    fn a_field_finds_its_column() {
        for (held, new, expected) in [
            (vec!["a", "b"], vec!["b", "c", "a"], vec![Some(1), None, Some(0)]),
            (vec!["id"], vec!["ID"], vec![None]),
            // Of `id` and `ID` in one record the second one's column is escaped; alone it isn't.
            (vec!["id", "_x0049_D"], vec!["ID"], vec![Some(1)]),
            (vec!["name"], vec!["full_name=name"], vec![Some(0)]),
            (vec!["full_name=name"], vec!["name"], vec![Some(0)]),
            (vec!["full_name=name"], vec!["called=name"], vec![Some(0)]),
            (vec!["name=full_name"], vec!["full_name"], vec![Some(0)]),
            // A name of one's own comes first.
            (vec!["name", "full_name"], vec!["full_name=name"], vec![Some(1)]),
            (vec!["name"], vec!["full_name=name", "name"], vec![None, Some(0)]),
            (vec!["name"], vec!["first=name", "last=name"], vec![Some(0), None]),
            // The envelope's names are its own.
            (vec!["_offset"], vec!["_x005F_offset"], vec![None]),
            (vec!["_x005F_offset", "_offset"], vec!["_offset", "_x005F_offset"], vec![Some(1), Some(0)]),
            (vec!["_offset"], vec!["place=_offset"], vec![None]),
        ] {
            assert_eq!(columns_of(&columns(&held), &columns(&new), Level::Top), expected, "{new:?} into {held:?}");
        }
    }
}
