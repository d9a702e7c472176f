//! Expected rows and those that are there.

use serde_json::Value;

use super::{Difference, ShownRow};

/// Whether a table has the expected rows: in any order, or in this one. None: it has.
pub(super) fn compare(
    columns: &[String],
    expected: Vec<ShownRow>,
    actual: Vec<ShownRow>,
    is_ordered: bool,
    tolerance: f64,
) -> Option<Difference> {
    let (pairs, same) =
        if is_ordered { in_order(expected, actual, tolerance) } else { in_any_order(expected, actual, tolerance) };
    (!pairs.is_empty()).then(|| Difference { columns: columns.to_vec(), pairs, same })
}

type Pairs = Vec<(Option<ShownRow>, Option<ShownRow>)>;

fn in_order(expected: Vec<ShownRow>, actual: Vec<ShownRow>, tolerance: f64) -> (Pairs, usize) {
    let rows = expected.len().max(actual.len());
    let (mut expected, mut actual) = (expected.into_iter(), actual.into_iter());
    let pairs: Pairs = (0..rows)
        .map(|_| (expected.next(), actual.next()))
        .filter(|pair| !matches!(pair, (Some(one), Some(other)) if is_same_row(one, other, tolerance)))
        .collect();
    let same = rows - pairs.len();
    (pairs, same)
}

fn in_any_order(expected: Vec<ShownRow>, mut actual: Vec<ShownRow>, tolerance: f64) -> (Pairs, usize) {
    let mut missing = Vec::new();
    let mut same = 0;
    for row in expected {
        match actual.iter().position(|other| is_same_row(&row, other, tolerance)) {
            Some(at) => {
                actual.remove(at);
                same += 1;
            }
            None => missing.push(row),
        }
    }
    // A row that differs in a column is shown beside the one that was meant: that with which it has most in common.
    let mut pairs: Pairs = Vec::new();
    for row in missing {
        let likeness = |other: &ShownRow| {
            row.iter()
                .filter(|(name, value)| is_same(value, other.get(*name).unwrap_or(&Value::Null), tolerance))
                .count()
        };
        let nearest = (0..actual.len()).max_by_key(|at| (likeness(&actual[*at]), std::cmp::Reverse(*at)));
        let nearest = nearest.filter(|at| likeness(&actual[*at]) > 0).map(|at| actual.remove(at));
        pairs.push((Some(row), nearest));
    }
    pairs.extend(actual.into_iter().map(|row| (None, Some(row))));
    (pairs, same)
}

fn is_same_row(one: &ShownRow, other: &ShownRow, tolerance: f64) -> bool {
    one.len() == other.len()
        && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| is_same(value, other, tolerance)))
}

/// Whether two values are the same; numbers with fractions within the tolerance.
pub(super) fn is_same(one: &Value, other: &Value, tolerance: f64) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) if one.is_f64() || other.is_f64() => {
            match (one.as_f64(), other.as_f64()) {
                (Some(one), Some(other)) => one == other || (one - other).abs() <= tolerance,
                _ => false,
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other, tolerance))
        }
        (Value::Object(one), Value::Object(other)) => is_same_row(one, other, tolerance),
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(values: Value) -> Vec<ShownRow> {
        serde_json::from_value(values).expect("an array of objects")
    }

    fn differ(expected: Value, actual: Value, is_ordered: bool, tolerance: f64) -> Option<(Pairs, usize)> {
        compare(&[], rows(expected), rows(actual), is_ordered, tolerance).map(|found| (found.pairs, found.same))
    }

    #[test]
    fn rows_may_stand_in_any_order_unless_told() {
        let (one, other) = (json!([{"a": 1}, {"a": 2}, {"a": 1}]), json!([{"a": 2}, {"a": 1}, {"a": 1}]));
        assert!(differ(one.clone(), other.clone(), false, 0.0).is_none());
        assert_eq!(differ(one, other, true, 0.0).expect("they differ").0.len(), 2);
    }

    #[test]
    fn how_often_a_row_is_there_matters() {
        let (pairs, same) = differ(json!([{"a": 1}, {"a": 1}]), json!([{"a": 1}]), false, 0.0).expect("one is missing");
        assert_eq!((pairs.len(), same), (1, 1));
        assert!(pairs[0].1.is_none());
    }

    #[test]
    fn numbers_with_fractions_may_differ_by_the_tolerance() {
        assert!(differ(json!([{"a": 0.5, "b": [0.1]}]), json!([{"a": 0.5001, "b": [0.1]}]), false, 0.001).is_none());
        assert!(differ(json!([{"a": 0.5}]), json!([{"a": 0.502}]), false, 0.001).is_some());
        assert!(differ(json!([{"a": 1}]), json!([{"a": 2}]), false, 5.0).is_some(), "whole numbers don't");
    }

    #[test]
    fn a_row_is_shown_beside_the_one_that_was_meant() {
        let expected = json!([{"id": "a", "n": 1}, {"id": "b", "n": 2}]);
        let actual = json!([{"id": "b", "n": 3}, {"id": "c", "n": 9}]);
        let (pairs, _) = differ(expected, actual, false, 0.0).expect("they differ");
        let ids: Vec<_> = pairs
            .iter()
            .map(|(one, other)| {
                (one.as_ref().map(|row| row["id"].clone()), other.as_ref().map(|row| row["id"].clone()))
            })
            .collect();
        assert_eq!(ids, [(Some(json!("a")), None), (Some(json!("b")), Some(json!("b"))), (None, Some(json!("c")))]);
    }
}
