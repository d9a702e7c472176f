//! What was left of a row twice as one object: by the decoder, which keeps what of JSON its schema doesn't know, and by
//! the table, which keeps what its columns can't hold.
//!
//! | both have | which becomes |
//! |---|---|
//! | an object | an object of the members of both; what is in both is joined in the same way |
//! | an array | an array, item by item; `null` stands for one of which nothing was left |
//! | anything else of one name | the second under the name `<name>_2`, or the next that is free: nothing is lost |

use std::borrow::Cow;
use std::collections::HashMap;

/// Joins two objects, both of them JSON without a fault. Values stay as they were written.
pub(super) fn join(held: &str, more: &str) -> String {
    let mut members: Vec<(String, Cow<'_, str>)> = members(held).map(|(name, value)| (name, value.into())).collect();
    let mut places: HashMap<String, usize> = (0..).zip(&members).map(|(at, (name, _))| (name.clone(), at)).collect();
    for (name, value) in self::members(more) {
        if let Some(at) = places.get(&name)
            && let Some(joined) = joined(&members[*at].1, value)
        {
            members[*at].1 = joined.into();
            continue;
        }
        let name = free(name, &places);
        places.insert(name.clone(), members.len());
        members.push((name, value.into()));
    }
    let members = members.into_iter().map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// Two values of one name; none where both can't be kept under it.
fn joined(held: &str, more: &str) -> Option<String> {
    match (held.as_bytes().first()?, more.as_bytes().first()?) {
        (b'n', _) => Some(more.to_owned()),
        (_, b'n') => Some(held.to_owned()),
        (b'{', b'{') => Some(join(held, more)),
        (b'[', b'[') => {
            let (mut held, mut more) = (Items::of(held), Items::of(more));
            let mut items = Vec::new();
            loop {
                items.push(match (held.next(), more.next()) {
                    (None, None) => break,
                    (Some(one), None) | (None, Some(one)) => one.to_owned(),
                    (Some(held), Some(more)) => joined(held, more)?,
                });
            }
            Some(format!("[{}]", items.join(",")))
        }
        _ => None,
    }
}

fn free(name: String, taken: &HashMap<String, usize>) -> String {
    if !taken.contains_key(&name) {
        return name;
    }
    (2..).map(|number| format!("{name}_{number}")).find(|name| !taken.contains_key(name)).unwrap_or(name)
}

/// Names and values of an object.
fn members(object: &str) -> impl Iterator<Item = (String, &str)> {
    Items::of(object).filter_map(|member| {
        let (name, value) = member.split_at(end_of_text(member)?);
        let name = serde_json::from_str(name).ok()?;
        Some((name, value.trim_start().strip_prefix(':')?.trim_start()))
    })
}

/// What stands behind a text, in bytes.
fn end_of_text(json: &str) -> Option<usize> {
    let mut is_escaped = false;
    let quote = json.bytes().skip(1).position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    quote.map(|at| at + 2)
}

/// What stands between the commas of an object or an array.
struct Items<'a> {
    rest: &'a str,
}

impl<'a> Items<'a> {
    /// What isn't in brackets has no items.
    fn of(json: &'a str) -> Self {
        let json = json.trim();
        Self { rest: json.get(1..json.len().saturating_sub(1)).unwrap_or_default().trim() }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (mut depth, mut at) = (0_usize, 0);
        let bytes = self.rest.as_bytes();
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => at += end_of_text(&self.rest[at..]).unwrap_or(bytes.len()).saturating_sub(1),
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' if depth == 0 => break,
                _ => {}
            }
            at += 1;
        }
        let (item, behind) = self.rest.split_at(at.min(bytes.len()));
        self.rest = behind.get(1..).unwrap_or_default().trim_start();
        Some(item.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_stands_once_and_nothing_is_lost() {
        for (held, more, expected) in [
            ("{}", r#"{"a":1}"#, r#"{"a":1}"#),
            (r#"{"a":1}"#, r#"{"b":2}"#, r#"{"a":1,"b":2}"#),
            (r#"{"a":{"x":1.10}}"#, r#"{"a":{"y":2},"b":3}"#, r#"{"a":{"x":1.10,"y":2},"b":3}"#),
            (
                r#"{"a":[null,{"x":1}]}"#,
                r#"{"a":[{"y":1},{"y":2},{"y":3}]}"#,
                r#"{"a":[{"y":1},{"x":1,"y":2},{"y":3}]}"#,
            ),
            (r#"{"a":null}"#, r#"{"a":7}"#, r#"{"a":7}"#),
            (r#"{"a":1,"a_2":2}"#, r#"{"a":"x"}"#, r#"{"a":1,"a_2":2,"a_3":"x"}"#),
            (r#"{"a":[1]}"#, r#"{"a":[2]}"#, r#"{"a":[1],"a_2":[2]}"#),
            // Texts that hold what could end a value, and a name written in two ways.
            (
                r#"{"\u0061" : "},\"]" , "b":[ "{" , 2 ]}"#,
                r#"{"a":null,"c":"\\"}"#,
                r#"{"a":"},\"]","b":[ "{" , 2 ],"c":"\\"}"#,
            ),
        ] {
            assert_eq!(join(held, more), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_two_objects_give_one(held in object(), more in object()) {
            let joined = join(&held.to_string(), &more.to_string());
            let joined: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&joined).expect("an object");
            for name in held.as_object().expect("an object").keys().chain(more.as_object().expect("an object").keys()) {
                proptest::prop_assert!(joined.contains_key(name));
            }
            proptest::prop_assert_eq!(leaves(&joined.into()), leaves(&held) + leaves(&more));
        }
    }

    fn leaves(json: &serde_json::Value) -> usize {
        match json {
            serde_json::Value::Null => 0,
            serde_json::Value::Array(items) => items.iter().map(leaves).sum(),
            serde_json::Value::Object(members) => members.values().map(leaves).sum(),
            _ => 1,
        }
    }

    fn object() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
        use proptest::prelude::*;
        let text = "[ab\"\\\\,{}\\[\\]é\n]{0,3}";
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            text.prop_map(Into::into)
        ];
        let value = leaf.prop_recursive(3, 16, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(text, inner, 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        });
        prop::collection::btree_map("[ab]{0,1}(_2)?", value, 0..4)
            .prop_map(|members| serde_json::Value::Object(members.into_iter().collect()))
    }
}
