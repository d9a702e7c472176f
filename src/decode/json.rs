//! JSON as RFC 8259 has it, read more strictly than libraries do.
//!
//! | what | why |
//! |---|---|
//! | a number stays the text that was written | a decimal of 38 digits and a long of 64 bits are no floats |
//! | a name that stands twice in an object is a fault | readers differ in which of the two they take |
//! | lone surrogates, control characters, bytes that aren't UTF-8 are faults | no string can hold them |
//! | depth and number of values are bounded | the stack and the memory are |
//! | a member remembers its own text | what has no column is kept as it was written |
//!
//! A byte order mark in front is passed over, as the specification allows: .NET writes one.

use std::borrow::Cow;

/// Levels of arrays and objects, as serde_json has it: each takes some hundred bytes of stack.
const DEPTH_MAX: usize = 128;

/// Values of a body. Each takes 56 bytes; a megabyte of JSON has half as many at most.
const VALUES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    /// As it was written.
    Number(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    Object(Vec<Member<'a>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) value: Value<'a>,
    /// The value's own text.
    pub(super) written: &'a str,
}

impl Value<'_> {
    /// For words.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// Reads a body that is one value.
///
/// # Errors
/// Words that say what is wrong, and where.
pub(super) fn parse(body: &[u8]) -> Result<Value<'_>, String> {
    let text = text_of(body)?;
    let mut parser = Parser { text, at: 0, before: body.len() - text.len(), values: 0 };
    let value = parser.value(0)?;
    parser.space();
    match parser.rest().len() {
        0 => Ok(value),
        rest => Err(parser.wrong(&format!("the value ends here, and {rest} bytes follow"))),
    }
}

/// A body as text, without its byte order mark.
///
/// # Errors
/// When it has no bytes, or some that are no text.
pub(super) fn text_of(body: &[u8]) -> Result<&str, String> {
    if body.is_empty() {
        return Err("the body is empty".to_owned());
    }
    let text = std::str::from_utf8(body)
        .map_err(|error| format!("it isn't JSON: bytes that aren't UTF-8, at byte {}", error.valid_up_to()))?;
    Ok(text.strip_prefix('\u{FEFF}').unwrap_or(text))
}

/// Whether this is how JSON writes a number.
pub(super) fn is_number(text: &str) -> bool {
    number_bytes(text) == Some(text.len())
}

/// The bytes that a number takes at the front of `text`.
fn number_bytes(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
    let whole = usize::from(bytes.first() == Some(&b'-'));
    let mut at = match bytes.get(whole)? {
        b'0' => whole + 1,
        _ => whole + Some(digits(whole)).filter(|count| *count > 0)?,
    };
    if bytes.get(at) == Some(&b'.') {
        at += 1 + Some(digits(at + 1)).filter(|count| *count > 0)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at += 1 + sign + Some(digits(at + 1 + sign)).filter(|count| *count > 0)?;
    }
    Some(at)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// Bytes of the body before the text.
    before: usize,
    values: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    #[cold]
    fn wrong(&self, problem: &str) -> String {
        format!("it isn't JSON: {problem}, at byte {}", self.before + self.at)
    }

    /// Passes over one byte, which must be this.
    fn pass(&mut self, wanted: u8) -> Result<(), String> {
        self.space();
        match self.peek() {
            Some(byte) if byte == wanted => {
                self.at += 1;
                Ok(())
            }
            None => Err(self.wrong("it ends too early")),
            Some(_) => Err(self.wrong(&format!("`{}` is missing", char::from(wanted)))),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, String> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(self.wrong(&format!("more than {VALUES_MAX} values")));
        }
        if depth > DEPTH_MAX {
            return Err(self.wrong(&format!("more than {DEPTH_MAX} levels")));
        }
        self.space();
        match self.peek() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'-' | b'0'..=b'9') => match number_bytes(self.rest()) {
                Some(bytes) => {
                    let number = &self.rest()[..bytes];
                    self.at += bytes;
                    Ok(Value::Number(number))
                }
                None => Err(self.wrong("a number that is none")),
            },
            Some(_) => {
                let words = [("null", Value::Null), ("true", Value::Boolean(true)), ("false", Value::Boolean(false))];
                let found = words.into_iter().find(|(word, _)| self.rest().starts_with(word));
                let (word, value) = found.ok_or_else(|| self.wrong("no value"))?;
                self.at += word.len();
                Ok(value)
            }
            None => Err(self.wrong("it ends too early")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value<'a>, String> {
        self.pass(b'[')?;
        let mut items = Vec::new();
        if self.ends(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.ends(b']') {
                return Ok(Value::List(items));
            }
            self.pass(b',')?;
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, String> {
        let from = self.at;
        self.pass(b'{')?;
        let mut members = Vec::new();
        if self.ends(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            if self.peek().is_some_and(|byte| byte != b'"') {
                return Err(self.wrong("a name is missing"));
            }
            let name = self.string()?;
            self.pass(b':')?;
            self.space();
            let at = self.at;
            let value = self.value(depth + 1)?;
            members.push(Member { name, value, written: &self.text[at..self.at] });
            if self.ends(b'}') {
                break;
            }
            self.pass(b',')?;
        }
        if let Some(name) = twice(&members) {
            let problem = format!("the name `{}` stands twice in the object", crate::error::quoted(name));
            self.at = from;
            return Err(self.wrong(&problem));
        }
        Ok(Value::Object(members))
    }

    /// Whether an array or an object ends here; passes over its end.
    fn ends(&mut self, end: u8) -> bool {
        self.space();
        let ends = self.peek() == Some(end);
        self.at += usize::from(ends);
        ends
    }

    /// Borrowed unless it has escapes.
    fn string(&mut self) -> Result<Cow<'a, str>, String> {
        self.pass(b'"')?;
        let mut held: Option<String> = None;
        loop {
            let plain = self.rest().bytes().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)).count();
            let text = &self.rest()[..plain];
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(match held {
                        Some(held) => Cow::Owned(held + text),
                        None => Cow::Borrowed(text),
                    });
                }
                Some(b'\\') => {
                    let held = held.get_or_insert_default();
                    held.push_str(text);
                    held.push(self.escape()?);
                }
                Some(_) => return Err(self.wrong("a control character in a string")),
                None => return Err(self.wrong("it ends too early")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let escaped = match self.text.as_bytes().get(self.at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            Some(_) => return Err(self.wrong("an escape that is none")),
            None => return Err(self.wrong("it ends too early")),
        };
        self.at += 2;
        Ok(escaped)
    }

    /// `\uXXXX`, of which two make a character beyond the first 65,536.
    fn unicode(&mut self) -> Result<char, String> {
        let unit = |at: usize| {
            let digits = self.text.as_bytes().get(at..at + 6)?;
            let digits = digits.strip_prefix(b"\\u").filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
            u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let first = unit(self.at).ok_or_else(|| self.wrong("an escape that is none"))?;
        let units = [first, unit(self.at + 6).unwrap_or(0)];
        match char::decode_utf16(units).next() {
            Some(Ok(character)) => {
                self.at += 6 * character.len_utf16();
                Ok(character)
            }
            _ => Err(self.wrong("a lone surrogate")),
        }
    }
}

fn twice<'m>(members: &'m [Member<'_>]) -> Option<&'m str> {
    let mut names: Vec<&str> = members.iter().map(|member| &*member.name).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(body: &[u8]) -> String {
        parse(body).expect_err("refused")
    }

    #[test]
    fn what_is_no_json_is_told_with_its_byte() {
        for (body, problem) in [
            (&b""[..], "the body is empty"),
            (b" ", "it isn't JSON: it ends too early, at byte 1"),
            (b"{\"a\":1", "it isn't JSON: it ends too early, at byte 6"),
            (b"{\"a\":1,}", "it isn't JSON: a name is missing, at byte 7"),
            (b"{\"a\" 1}", "it isn't JSON: `:` is missing, at byte 5"),
            (b"[1,]", "it isn't JSON: no value, at byte 3"),
            (b"[1 2]", "it isn't JSON: `,` is missing, at byte 3"),
            (b"{} x", "it isn't JSON: the value ends here, and 1 bytes follow, at byte 3"),
            (b"01", "it isn't JSON: the value ends here, and 1 bytes follow, at byte 1"),
            (b"1.", "it isn't JSON: a number that is none, at byte 0"),
            (b"-", "it isn't JSON: a number that is none, at byte 0"),
            (b"NaN", "it isn't JSON: no value, at byte 0"),
            (b"\"a\nb\"", "it isn't JSON: a control character in a string, at byte 2"),
            (b"\"\\x\"", "it isn't JSON: an escape that is none, at byte 1"),
            (b"\"\\u12\"", "it isn't JSON: an escape that is none, at byte 1"),
            (b"\"\\ud800\"", "it isn't JSON: a lone surrogate, at byte 1"),
            (b"\"\\udc00\\ud800\"", "it isn't JSON: a lone surrogate, at byte 1"),
            (b"\"\\ud800\\ud800\"", "it isn't JSON: a lone surrogate, at byte 1"),
            (b"{\"a\":\"\xFF\"}", "it isn't JSON: bytes that aren't UTF-8, at byte 6"),
            (b"[{\"a\":1,\"\\u0061\":2}]", "it isn't JSON: the name `a` stands twice in the object, at byte 1"),
            (b"\xEF\xBB\xBF[", "it isn't JSON: it ends too early, at byte 4"),
        ] {
            assert_eq!(refused(body), problem);
        }
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let nested = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
        assert!(parse(&nested(DEPTH_MAX)).is_ok());
        assert!(refused(&nested(DEPTH_MAX + 2)).contains("more than 128 levels"));
        assert!(refused(&vec![b'['; 10_000_000]).contains("more than 128 levels"));
        let many = [b"[".to_vec(), b"1,".repeat(VALUES_MAX), b"1]".to_vec()].concat();
        assert!(refused(&many).contains("more than 1048576 values"));
    }

    #[test]
    fn numbers_and_members_stay_as_they_were_written() {
        let body = br#"{ "a" : 123456789012345678901234567890.10 , "b":[ {} ] }"#;
        let Value::Object(members) = parse(body).expect("an object") else { panic!("an object") };
        assert_eq!(members[0].value, Value::Number("123456789012345678901234567890.10"));
        assert_eq!((members[1].written, &*members[1].name), ("[ {} ]", "b"));
        assert_eq!(parse(br#""\ud83d\ude00\u00e9\/""#), Ok(Value::Text("😀é/".into())));
    }

    /// serde_json reads some doubles a bit off, so `number` says how they are read here.
    fn as_serde(value: &Value<'_>, number: &dyn Fn(&str) -> serde_json::Value) -> serde_json::Value {
        let as_serde = |value| as_serde(value, number);
        match value {
            Value::Null => serde_json::Value::Null,
            Value::Boolean(value) => (*value).into(),
            Value::Number(text) => number(text),
            Value::Text(text) => (&**text).into(),
            Value::List(items) => items.iter().map(as_serde).collect(),
            Value::Object(members) => {
                members.iter().map(|member| (member.name.to_string(), as_serde(&member.value))).collect()
            }
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                prop::collection::hash_map(".{0,4}", inner, 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_serde_json_writes_is_read_as_that(json in any_json(), is_pretty in any::<bool>()) {
            let text = if is_pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) };
            let text = text.expect("written");
            let exactly = |number: &str| match number.parse::<i64>() {
                Ok(number) => number.into(),
                Err(_) => number.parse::<f64>().expect("a number").into(),
            };
            prop_assert_eq!(as_serde(&parse(text.as_bytes()).expect("read"), &exactly), json);
        }

        /// What we take, serde_json takes as the same; what we refuse and it takes, we refuse for a reason of ours.
        #[test]
        fn bytes_that_are_nearly_json_are_judged_as_by_serde_json(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ":", ",", "\"", "\"a\"", "\"b\"", "\\", "\\u", "00e9", "\\ud83d", "\\ude00", "null", "true",
                "fals", "-", "0", "12", ".5", "e3", "E-", " ", "\n", "\t", "é", "\u{7f}", "\u{1}",
            ]), 0..24),
        ) {
            let text = pieces.concat();
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            match (parse(text.as_bytes()), theirs) {
                (Ok(ours), Ok(theirs)) => {
                    let as_they_do = |number: &str| serde_json::from_str(number).expect("a number");
                    prop_assert_eq!(as_serde(&ours, &as_they_do), theirs);
                }
                (Ok(ours), Err(error)) => prop_assert!(error.to_string().contains("out of range"), "{ours:?}: {error}"),
                (Err(problem), Ok(_)) => prop_assert!(problem.contains("stands twice"), "{}", problem),
                (Err(_), Err(_)) => {}
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body);
        }
    }
}
