//! Hides what looks like a secret in the text of a file, so that a report can show its lines.
//!
//! Works on text alone, without its structure: a file whose syntax is broken, or whose key is
//! misspelt, is just the one that gets shown. A key is suspected by its name, wherever `name =`
//! stands, which finds `SharedAccessKey=` within a connection string too. References
//! (`${NAME}`) stay visible, since they are what a report talks about; their defaults don't.

/// A name with one of these in it is taken for a secret's. Too many hidden values cost a
/// little convenience, one shown secret costs the secret.
const SUSPECTS: [&str; 8] = ["key", "secret", "token", "password", "connection", "string", "signature", "sas"];

/// The keys that hold secrets: a slip of the fingers in one of them must not show it.
const SECRET_KEYS: [&str; 6] =
    ["account_key", "sas_token", "connection_string", "client_secret", "secret", "previous_secret"];

/// The text with each byte of a secret replaced by `*`: as long as before, line by line.
pub(super) fn mask(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while let Some(found) = text.as_bytes()[at..].iter().position(|byte| *byte == b'=') {
        let equals = at + found;
        at = equals + 1;
        if is_suspect(name_before(text, equals)) {
            let (from, to) = value_after(text.as_bytes(), equals + 1);
            hide(text.as_bytes(), &mut bytes, from, to);
            at = at.max(to);
        }
    }
    // A broken file may hold characters that move the cursor or set colours.
    for byte in &mut bytes {
        if (*byte < b' ' && !matches!(byte, b'\n' | b'\t' | b'\r')) || *byte == 0x7f {
            *byte = b'?';
        }
    }
    // Only whole runs of bytes became `*`, but a run may end within a character of a broken file.
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_suspect(name: &str) -> bool {
    // Longer than any key, and comparing costs the product of both lengths.
    const LONGEST: usize = 64;
    let name = name.to_ascii_lowercase();
    let is_slip = |key: &str| name.len() <= LONGEST && strsim::damerau_levenshtein(&name, key) <= 2;
    name == "sig" || SUSPECTS.iter().any(|suspect| name.contains(suspect)) || SECRET_KEYS.into_iter().any(is_slip)
}

/// The bare or quoted name that ends before `equals`.
fn name_before(text: &str, equals: usize) -> &str {
    let before = text[..equals].trim_end_matches([' ', '\t', '"', '\'']);
    let start = before
        .rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
        .map_or(0, |other| other + before[other..].chars().next().map_or(1, char::len_utf8));
    &before[start..]
}

/// The bytes of the value that starts after `from`: within its quotes, or up to where a bare
/// one ends. Empty for arrays and tables, whose members are found by their own names.
fn value_after(text: &[u8], from: usize) -> (usize, usize) {
    let start = from + text[from..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    for quote in [&b"\"\"\""[..], b"'''"] {
        if text[start..].starts_with(quote) {
            let inside = start + quote.len();
            let length = text[inside..].windows(quote.len()).position(|window| window == quote);
            return (inside, length.map_or(text.len(), |length| inside + length));
        }
    }
    match text.get(start) {
        Some(b'[' | b'{') | None => (start, start),
        Some(quote @ (b'"' | b'\'')) => {
            let inside = start + 1;
            let mut end = inside;
            while end < text.len() && text[end] != *quote && text[end] != b'\n' {
                end += if text[end] == b'\\' && *quote == b'"' { 2 } else { 1 };
            }
            (inside, end.min(text.len()))
        }
        Some(_) => {
            let ends = |byte: &u8| matches!(byte, b';' | b'&' | b'"' | b'\'' | b'\n' | b' ' | b'\t' | b'\r');
            (start, text[start..].iter().position(ends).map_or(text.len(), |length| start + length))
        }
    }
}

/// Replaces a value, but for its references.
fn hide(text: &[u8], bytes: &mut [u8], from: usize, to: usize) {
    let mut at = from;
    while at < to {
        if text[at..to].starts_with(b"${") {
            let end = text[at..to].iter().position(|byte| *byte == b'}').map_or(to, |length| at + length);
            let default = text[at..end].windows(2).position(|window| window == b":-").map(|offset| at + offset + 2);
            if let Some(default) = default {
                bytes[default..end].fill(b'*');
            }
            at = end + 1;
        } else {
            if text[at] != b'\n' {
                bytes[at] = b'*';
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(mask(text), expected);
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        check("account_key = \"abc\" # why", "account_key = \"***\" # why");
        check("acount_kye = 'abc'", "acount_kye = '***'");
        check("conection_string = abc def", "conection_string = *** def");
        check("client_secret = \"\"\"a\nb\"\"\"\nname = \"x\"", "client_secret = \"\"\"*\n*\"\"\"\nname = \"x\"");
        check("x = { client_secret = \"a\\\"b\", y = 1 }", "x = { client_secret = \"****\", y = 1 }");
        check("endpoint = \"sb://h;SharedAccessKey=abc;x\"", "endpoint = \"sb://h;SharedAccessKey=***;x\"");
        check("url = \"https://h/c?sig=abc&se=1\"", "url = \"https://h/c?sig=***&se=1\"");
        check("account_key = \"never closed", "account_key = \"************");
    }

    #[test]
    fn references_and_other_values_stay_visible() {
        check("account_key = \"${KEY}\"", "account_key = \"${KEY}\"");
        check("account_key = \"${KEY:-abc}\"", "account_key = \"${KEY:-***}\"");
        check("keys = [\"lead_id\"]", "keys = [\"lead_id\"]");
        check("hub = \"leads\"", "hub = \"leads\"");
        check("consumer_group = \"lake\"", "consumer_group = \"lake\"");
        check("account_name = \"lake\"", "account_name = \"lake\"");
    }

    proptest! {
        #[test]
        fn masking_keeps_every_place(text in "(key|hub|[ =\"'\\n\\\\$\\{\\}:-]|ä|a){0,60}") {
            let masked = mask(&text);
            prop_assert_eq!(masked.len(), text.len());
            let newlines = |text: &str| text.match_indices('\n').map(|(at, _)| at).collect::<Vec<_>>();
            prop_assert_eq!(newlines(&masked), newlines(&text));
        }
    }
}
