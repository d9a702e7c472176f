//! `${NAME}`, `${NAME:-default}` and `${file:path}` in the strings of a declaration.
//!
//! `$${` stands for `${` itself. What comes from outside is never printed: reports show how
//! the string was written.

use std::path::Path;

use super::document::{Node, Text, Value};
use super::problem::{Place, Problem};

/// A secret in a file is a line or a token; what is larger is another kind of file.
const LARGEST_SECRET_BYTES: u64 = 64 * 1024;

/// Ways to name a secret of Azure Key Vault that other systems have.
const KEY_VAULT_PREFIXES: [&str; 4] = ["keyvault:", "key_vault:", "key-vault:", "akv:"];

/// Where variables come from.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Puts variables into every string of a tree; a string with a problem becomes `Broken`.
pub(super) fn resolve(node: &mut Node, dir: &Path, lookup: Lookup<'_>, problems: &mut Vec<Problem>) {
    match &mut node.value {
        Value::Table(table) => {
            for entry in table.values_mut() {
                resolve(&mut entry.node, dir, lookup, problems);
            }
        }
        Value::Array(nodes) => {
            for node in nodes {
                resolve(node, dir, lookup, problems);
            }
        }
        Value::Text(text) => match substitute(&text.written, dir, lookup) {
            Ok(value) => {
                text.has_variables = text.written.contains("${");
                text.value = value;
            }
            Err(mistakes) => {
                for mistake in mistakes {
                    let place = within(&node.place, &mistake.written, text);
                    let problem = Problem::new(place, mistake.message);
                    problems.push(match mistake.hint {
                        Some(hint) => problem.with_hint(hint),
                        None => problem,
                    });
                }
                node.value = Value::Broken;
            }
        },
        Value::Integer(_)
        | Value::HugeInteger
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Time(_)
        | Value::Broken => {}
    }
}

/// The bytes of one reference within its string, as far as they can be told apart.
fn within(place: &Place, reference: &str, text: &Text) -> Place {
    // Masking keeps places, but hides a default: search for what stays visible.
    let visible = reference.split_once(":-").map_or(reference, |(name, _)| name);
    let shown = place.file.shown.get(place.bytes.clone());
    match shown.and_then(|shown| shown.find(visible)) {
        Some(offset) if !visible.is_empty() && !text.written.is_empty() => {
            let start = place.bytes.start + offset;
            Place { file: place.file.clone(), bytes: start..(start + reference.len()).min(place.bytes.end) }
        }
        _ => place.clone(),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    /// The reference as it stands in the string.
    written: String,
    message: String,
    hint: Option<String>,
}

impl Mistake {
    fn new(written: &str, message: impl Into<String>, hint: &str) -> Self {
        Self { written: written.to_owned(), message: message.into(), hint: Some(hint.to_owned()) }
    }
}

fn substitute(text: &str, dir: &Path, lookup: Lookup<'_>) -> Result<String, Vec<Mistake>> {
    let mut value = String::with_capacity(text.len());
    let mut mistakes = Vec::new();
    if text.starts_with("@Microsoft.KeyVault(") {
        return Err(vec![key_vault(text)]);
    }
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            value.push_str(&rest[..at]);
            value.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        value.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}').map(|length| at + length) else {
            let hint = "close it with `}`, or write `$${` for the characters themselves";
            mistakes.push(Mistake::new(&rest[at..], "`${` is never closed", hint));
            rest = "";
            break;
        };
        let reference = &rest[at..=end];
        match one(reference, &rest[at + 2..end], dir, lookup) {
            Ok(found) => value.push_str(&found),
            Err(mistake) => mistakes.push(mistake),
        }
        rest = &rest[end + 1..];
    }
    value.push_str(rest);
    if mistakes.is_empty() { Ok(value) } else { Err(mistakes) }
}

/// One reference, by what stands within its braces.
fn one(reference: &str, inside: &str, dir: &Path, lookup: Lookup<'_>) -> Result<String, Mistake> {
    if let Some(path) = inside.strip_prefix("file:") {
        return from_file(reference, path, dir);
    }
    if KEY_VAULT_PREFIXES.iter().any(|prefix| inside.to_ascii_lowercase().starts_with(prefix)) {
        return Err(key_vault(reference));
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        let hint = "write `${NAME}`, `${NAME:-default}` or `${file:path}`; `$${` for the characters themselves";
        return Err(Mistake::new(reference, format!("`{}` is not the name of a variable", masked_default(name)), hint));
    }
    // Empty counts as unset, as `:-` has it in a shell: an empty secret is a forgotten one.
    match (lookup(name).filter(|value| !value.is_empty()), default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            let message = format!("variable `{name}` is not set");
            Err(Mistake::new(reference, message, &format!("set it, or give a default: `${{{name}:-…}}`")))
        }
    }
}

fn from_file(reference: &str, path: &str, dir: &Path) -> Result<String, Mistake> {
    let at = dir.join(path);
    let failed = |message: String| Mistake::new(reference, message, "relative paths start at the project's folder");
    let length = std::fs::metadata(&at).map_err(|error| failed(format!("can't read `{path}`: {error}")))?.len();
    if length > LARGEST_SECRET_BYTES {
        return Err(failed(format!("`{path}` has {length} bytes, more than {LARGEST_SECRET_BYTES}")));
    }
    let value = std::fs::read_to_string(&at).map_err(|error| failed(format!("can't read `{path}`: {error}")))?;
    // Editors and `echo` end a file with a newline that belongs to no secret.
    Ok(value.trim_end_matches(['\n', '\r']).to_owned())
}

fn key_vault(written: &str) -> Mistake {
    let hint = "let the platform put the secret into a variable or a file: `${NAME}`, `${file:path}`";
    Mistake::new(written, "Key Vault references aren't supported by this version", hint)
}

/// A name that isn't one may be a secret put there by mistake: only its start is said.
fn masked_default(name: &str) -> String {
    const SAID: usize = 12;
    let said: String = name.chars().take(SAID).collect();
    if said.len() < name.len() { format!("{said}…") } else { said }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn check(text: &str, expected: Result<&str, &str>) {
        let got = substitute(text, Path::new("/nowhere"), &lookup);
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(mistakes), Err(expected)) => assert_eq!(mistakes[0].message, expected),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn references_become_what_they_name() {
        check("plain $ {text}", Ok("plain $ {text}"));
        check("a ${SET} b ${SET}", Ok("a value b value"));
        check("${UNSET:-default}", Ok("default"));
        check("${EMPTY:-default}", Ok("default"));
        check("${SET:-default}", Ok("value"));
        check("${UNSET:-}", Ok(""));
        check("$${SET}", Ok("${SET}"));
        check("${UNSET}", Err("variable `UNSET` is not set"));
        check("${EMPTY}", Err("variable `EMPTY` is not set"));
        check("${SET", Err("`${` is never closed"));
        check("${}", Err("`` is not the name of a variable"));
        check("${a b}", Err("`a b` is not the name of a variable"));
        check("${keyvault:x}", Err("Key Vault references aren't supported by this version"));
        check("@Microsoft.KeyVault(SecretUri=x)", Err("Key Vault references aren't supported by this version"));
    }

    #[test]
    fn a_file_gives_its_text_without_the_last_newline() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("key"), "s3cret\r\n").expect("the file is written");
        assert_eq!(substitute("${file:key}", dir.path(), &lookup), Ok("s3cret".to_owned()));
        let mistakes = substitute("${file:other}", dir.path(), &lookup).expect_err("there is no such file");
        assert!(mistakes[0].message.starts_with("can't read `other`: "), "{mistakes:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused_without_a_panic(text in "[$\\{\\}:a-c\\-ä ]{0,24}") {
            let result = substitute(&text, Path::new("/nowhere"), &lookup);
            if !text.contains("${") {
                prop_assert_eq!(result, Ok(text));
            }
        }
    }
}
