//! Steps over the bytes of one datum: each value as the specification lays it out, or what is wrong with it.

use super::plan::Form;

/// What is wrong with a datum, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}, at byte {at}{}", place(path))]
pub(in crate::decode) struct DatumError {
    /// The byte at which it was seen.
    pub(in crate::decode) at: usize,
    pub(in crate::decode) problem: String,
    /// Names of the fields down to it, innermost first.
    path: Vec<String>,
}

impl DatumError {
    #[cold]
    pub(in crate::decode) fn inside(mut self: Box<Self>, field: &str) -> Box<Self> {
        self.path.push(field.to_owned());
        self
    }
}

fn place(path: &[String]) -> String {
    if path.is_empty() {
        return String::new();
    }
    let names: Vec<_> = path.iter().rev().map(String::as_str).collect();
    format!(" in the field `{}`", names.join("."))
}

/// Boxed, since it is seldom there and would be the largest part of every result.
pub(in crate::decode) type Step<T = ()> = Result<T, Box<DatumError>>;

/// Whether each text is looked at by itself. Else all texts of a column are, once they are together: that
/// is faster, and doesn't say which one is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) enum Texts {
    Each,
    Together,
}

pub(in crate::decode) struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    texts: Texts,
}

impl<'a> Walk<'a> {
    pub(in crate::decode) fn new(bytes: &'a [u8], texts: Texts) -> Self {
        Self { bytes, at: 0, texts }
    }

    #[cold]
    pub(in crate::decode) fn error(&self, problem: impl Into<String>) -> Box<DatumError> {
        Box::new(DatumError { at: self.at, problem: problem.into(), path: Vec::new() })
    }

    pub(in crate::decode) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Nothing may be left over.
    pub(in crate::decode) fn end(&self) -> Step {
        match self.left() {
            0 => Ok(()),
            rest => Err(self.error(format!("the datum ends here, and {rest} bytes follow"))),
        }
    }

    #[inline]
    pub(in crate::decode) fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        match self.bytes[self.at..].get(..count) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(self.error(format!("needs {count} bytes, and {} are left", self.left()))),
        }
    }

    #[inline]
    pub(in crate::decode) fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        match self.bytes[self.at..].first_chunk() {
            Some(taken) => {
                self.at += N;
                Ok(*taken)
            }
            None => Err(self.error(format!("needs {N} bytes, and {} are left", self.left()))),
        }
    }

    /// Most lengths, counts and branches take one byte.
    #[inline]
    fn varint(&mut self) -> Step<u64> {
        match self.bytes.get(self.at) {
            Some(byte) if byte & 0x80 == 0 => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Step<u64> {
        let mut value = 0_u64;
        for (position, byte) in self.bytes[self.at..].iter().take(10).enumerate() {
            if position == 9 && *byte > 1 {
                return Err(self.error("a number of more than 64 bits"));
            }
            value |= u64::from(byte & 0x7F) << (7 * position);
            if byte & 0x80 == 0 {
                self.at += position + 1;
                return Ok(value);
            }
        }
        Err(self.error("a number that is cut off"))
    }

    pub(in crate::decode) fn boolean(&mut self) -> Step<bool> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.error(format!("a boolean of {other}"))),
        }
    }

    #[inline]
    pub(in crate::decode) fn long(&mut self) -> Step<i64> {
        let raw = self.varint()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    #[inline]
    pub(in crate::decode) fn int(&mut self) -> Step<i32> {
        let value = self.long()?;
        i32::try_from(value).map_err(|_| self.error(format!("an int of {value}, which has more than 32 bits")))
    }

    #[inline]
    pub(in crate::decode) fn sized(&mut self) -> Step<&'a [u8]> {
        let length = self.long()?;
        match usize::try_from(length) {
            Ok(length) => self.take(length),
            Err(_) => Err(self.error(format!("a length of {length}"))),
        }
    }

    #[inline]
    pub(in crate::decode) fn text(&mut self) -> Step<&'a [u8]> {
        let text = self.sized()?;
        if self.texts == Texts::Each
            && let Err(error) = std::str::from_utf8(text)
        {
            self.at -= text.len() - error.valid_up_to();
            return Err(self.error("a string that isn't UTF-8"));
        }
        Ok(text)
    }

    pub(in crate::decode) fn symbol(&mut self, symbols: usize) -> Step<usize> {
        let index = self.int()?;
        match usize::try_from(index) {
            Ok(index) if index < symbols => Ok(index),
            _ => Err(self.error(format!("symbol {index} of an enum that has {symbols}"))),
        }
    }

    #[inline]
    pub(in crate::decode) fn branch(&mut self, branches: usize) -> Step<usize> {
        let index = self.long()?;
        match usize::try_from(index) {
            Ok(index) if index < branches => Ok(index),
            _ => Err(self.error(format!("branch {index} of a union that has {branches}"))),
        }
    }

    fn form(&mut self, form: Form) -> Step<&'a [u8]> {
        match form {
            Form::Bytes => self.sized(),
            Form::Fixed(size) => self.take(size),
        }
    }

    pub(super) fn decimal(&mut self, precision: u8, form: Form) -> Step<i128> {
        let digits = self.form(form)?;
        match decimal(digits) {
            Some(value) if value.unsigned_abs() < 10_u128.pow(u32::from(precision)) => Ok(value),
            _ if digits.is_empty() => Err(self.error("a decimal of no bytes")),
            _ => Err(self.error(format!("a decimal of more than {precision} digits"))),
        }
    }

    pub(super) fn uuid(&mut self, form: Form) -> Step<[u8; 16]> {
        let bytes = self.form(form)?;
        bytes.try_into().map_err(|_| self.error(format!("a uuid of {} bytes", bytes.len())))
    }

    /// Blocks of items, each with its count; a negative count has the block's bytes behind it. Gives the
    /// number of items.
    #[inline]
    pub(in crate::decode) fn blocks(
        &mut self,
        item_bytes_min: usize,
        mut item: impl FnMut(&mut Self) -> Step,
    ) -> Step<usize> {
        let mut all = 0;
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(all);
            }
            let end = if count < 0 {
                let size = self.long()?;
                let end = usize::try_from(size).ok().filter(|size| *size <= self.left()).map(|size| self.at + size);
                Some(end.ok_or_else(|| self.error(format!("a block of {size} bytes, and {} are left", self.left())))?)
            } else {
                None
            };
            // The plan has no items that take no bytes, so what is left bounds every count.
            let items_max = self.left() / item_bytes_min.max(1);
            let items = usize::try_from(count.unsigned_abs()).ok().filter(|items| *items <= items_max);
            let Some(items) = items else {
                let count = count.unsigned_abs();
                return Err(self.error(format!("a block of {count} items, and {} bytes are left", self.left())));
            };
            for _ in 0..items {
                item(self)?;
            }
            all += items;
            if end.is_some_and(|end| end != self.at) {
                return Err(self.error("a block that doesn't end where it says"));
            }
        }
    }
}

/// A big-endian two's complement number; `None` when it is empty or has more than 128 bits.
fn decimal(bytes: &[u8]) -> Option<i128> {
    let sign: u8 = if bytes.first()? & 0x80 == 0 { 0 } else { 0xFF };
    let extra = bytes.len().saturating_sub(16);
    let (extension, digits) = bytes.split_at(extra);
    if extension.iter().any(|byte| *byte != sign) || (extra > 0 && (digits[0] ^ sign) & 0x80 != 0) {
        return None;
    }
    let mut wide = [sign; 16];
    wide[16 - digits.len()..].copy_from_slice(digits);
    Some(i128::from_be_bytes(wide))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::columns::Columns;
    use super::super::plan::Plan;
    use super::*;

    /// What the columns of a datum are made of, in bytes.
    fn verdict(avsc: &str, bytes: &[u8]) -> Result<usize, String> {
        let plan = Plan::parse(avsc).expect("a schema");
        let mut columns = Columns::new(&plan.root, 1);
        let pushed = columns.push(bytes, Texts::Each).map_err(|error| error.to_string());
        let size = columns.bytes();
        columns.finish().expect("whatever was refused, the columns are whole");
        pushed.map(|()| size)
    }

    fn refused(avsc: &str, bytes: &[u8]) -> String {
        verdict(avsc, bytes).expect_err("refused")
    }

    const INTS: &str = r#"{"type": "array", "items": "int"}"#;

    #[test]
    fn numbers_end_where_their_types_do() {
        let long_max = [0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        assert!(verdict(r#""long""#, &long_max).is_ok());
        let mut beyond = long_max;
        beyond[9] = 2;
        assert_eq!(refused(r#""long""#, &beyond), "a number of more than 64 bits, at byte 0 in the field `value`");
        assert_eq!(refused(r#""long""#, &[0x80; 3]), "a number that is cut off, at byte 0 in the field `value`");
        assert_eq!(refused(r#""long""#, &[0x80; 20]), "a number of more than 64 bits, at byte 0 in the field `value`");
        assert!(verdict(r#""int""#, &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]).is_ok());
        assert_eq!(
            refused(r#""int""#, &[0x80, 0x80, 0x80, 0x80, 0x10]),
            "an int of 2147483648, which has more than 32 bits, at byte 5 in the field `value`"
        );
    }

    #[test]
    fn values_that_no_column_could_hold_are_refused() {
        let decimal = r#"{"type": "bytes", "logicalType": "decimal", "precision": 2}"#;
        let millis = r#"{"type": "long", "logicalType": "timestamp-millis"}"#;
        let choice = r#"["null", "int"]"#;
        let letters = r#"{"type": "enum", "name": "E", "symbols": ["A"]}"#;
        for (avsc, bytes, problem) in [
            (r#""boolean""#, &[2][..], "a boolean of 2, at byte 1"),
            (r#""string""#, &[4, b'a', 0xFF], "a string that isn't UTF-8, at byte 2"),
            (r#""string""#, &[4, b'a'], "needs 2 bytes, and 1 are left, at byte 1"),
            (r#""bytes""#, &[1], "a length of -1, at byte 1"),
            (r#""double""#, &[0; 7], "needs 8 bytes, and 7 are left, at byte 0"),
            (letters, &[2], "symbol 1 of an enum that has 1, at byte 1"),
            (letters, &[1], "symbol -1 of an enum that has 1, at byte 1"),
            (choice, &[4], "branch 2 of a union that has 2, at byte 1"),
            (choice, &[1], "branch -1 of a union that has 2, at byte 1"),
            (decimal, &[2, 100], "a decimal of more than 2 digits, at byte 2"),
            (decimal, &[0], "a decimal of no bytes, at byte 1"),
            (
                millis,
                &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
                "a timestamp that is out of range in microseconds, at byte 10",
            ),
            (r#"{"type": "bytes", "logicalType": "uuid"}"#, &[34; 18], "a uuid of 17 bytes, at byte 18"),
        ] {
            assert_eq!(refused(avsc, bytes), format!("{problem} in the field `value`"));
        }
        assert!(verdict(decimal, &[2, 99]).is_ok());
        assert!(verdict(decimal, &[38, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99]).is_ok());
    }

    #[test]
    fn a_block_is_no_longer_than_what_is_left() {
        assert!(verdict(INTS, &[4, 2, 4, 0]).is_ok());
        assert!(verdict(INTS, &[2, 2, 2, 4, 0]).is_ok(), "two blocks");
        assert!(verdict(INTS, &[3, 4, 2, 4, 0]).is_ok(), "a block that tells its bytes");
        assert_eq!(
            refused(INTS, &[3, 2, 2, 4, 0]),
            "a block that doesn't end where it says, at byte 4 in the field `value`"
        );
        assert_eq!(
            refused(INTS, &[3, 1, 2, 4, 0]),
            "a block of -1 bytes, and 3 are left, at byte 2 in the field `value`"
        );
        assert_eq!(
            refused(INTS, &[3, 20, 2, 4, 0]),
            "a block of 10 bytes, and 3 are left, at byte 2 in the field `value`"
        );
        assert_eq!(
            refused(INTS, &[8, 2, 4, 0]),
            "a block of 4 items, and 3 bytes are left, at byte 1 in the field `value`"
        );
        assert_eq!(refused(INTS, &[4, 2, 4]), "a number that is cut off, at byte 3 in the field `value`");
        // i64::MIN items: its negative has no i64.
        let count = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 0];
        assert!(refused(INTS, &count).contains("a block of 9223372036854775808 items"));
    }

    #[test]
    fn a_count_of_items_that_take_no_bytes_can_not_spin() {
        // 2^60 nulls; the schema is refused before any datum is looked at.
        assert!(Plan::parse(r#"{"type": "array", "items": "null"}"#).is_err());
        let of_records = r#"{"type": "map", "values": {"type": "record", "name": "N", "fields": []}}"#;
        assert!(Plan::parse(of_records).is_err());
    }

    #[test]
    fn what_would_fill_the_memory_is_refused() {
        let fields: Vec<_> = (0..1000).map(|at| format!(r#"{{"name": "f{at}", "type": "long"}}"#)).collect();
        let record = format!(r#"{{"type": "record", "name": "R", "fields": [{}]}}"#, fields.join(","));
        let nulls = format!(r#"{{"type": "array", "items": ["null", {record}]}}"#);
        let symbol = "A".repeat(8000);
        let symbols =
            format!(r#"{{"type": "array", "items": {{"type": "enum", "name": "E", "symbols": ["{symbol}"]}}}}"#);
        let branches = format!(r#"{{"type": "array", "items": ["null", "long", {record}]}}"#);
        for avsc in [&nulls, &symbols, &branches] {
            let datum = |count: i64| {
                let mut bytes = Vec::new();
                let mut zigzag = count.cast_unsigned() << 1;
                while zigzag > 0x7F {
                    bytes.push((zigzag & 0x7F) as u8 | 0x80);
                    zigzag >>= 7;
                }
                bytes.push(zigzag as u8);
                bytes.extend(vec![0; usize::try_from(count).expect("some items") + 1]);
                bytes
            };
            let bytes = verdict(avsc, &datum(8000)).expect("64 MB are borne");
            assert!((64_000_000..64_300_000).contains(&bytes), "{bytes}");
            assert!(
                refused(avsc, &datum(8500)).starts_with("nulls or symbols that would take more than 67108864 bytes")
            );
        }
    }

    #[test]
    fn an_error_names_the_field_from_the_root_down() {
        let avsc = r#"{"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "array", "items":
            {"type": "record", "name": "I", "fields": [{"name": "b", "type": "boolean"}]}}}]}"#;
        assert_eq!(refused(avsc, &[2, 7, 0]), "a boolean of 7, at byte 2 in the field `a.b`");
    }

    proptest! {
        #[test]
        fn a_decimal_is_the_number_that_its_bytes_say(value in any::<i128>(), shift in 0_u32..128, padding in 0_usize..5) {
            let value = value >> shift;
            let mut bytes = vec![if value < 0 { 0xFF } else { 0 }; padding];
            bytes.extend(value.to_be_bytes());
            prop_assert_eq!(decimal(&bytes), Some(value));
        }

        #[test]
        fn any_bytes_get_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let avsc = r#"{"type": "record", "name": "R", "fields": [
                {"name": "a", "type": {"type": "map", "values": {"type": "array", "items": ["null", "string", "long"]}}},
                {"name": "b", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 38}]}]}"#;
            let _ = verdict(avsc, &bytes);
            // Looked at together or one by one, the same datums are refused.
            let schema = super::super::WriterSchema::parse(avsc).expect("a schema");
            let rows = schema.decode(&[&bytes, &[0, 0], &bytes]).expect("decoded");
            let is_sound = verdict(avsc, &bytes).is_ok();
            prop_assert_eq!(rows.sets[0].datums.len(), if is_sound { 3 } else { 1 });
        }
    }
}
