//! The records of `schemas/`, as serde writes them: a struct for each, its fields in the schema's order.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// Euro cents: a decimal of scale 2.
#[derive(Debug, Clone, Copy)]
pub struct Cents(pub i64);

impl Serialize for Cents {
    /// As Avro has it: big-endian two's complement, in as few bytes as it takes.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.to_be_bytes();
        let is_padding = |at: &usize| {
            let sign = if bytes[at + 1] & 0x80 == 0 { 0x00 } else { 0xFF };
            bytes[*at] == sign
        };
        let start = (0..bytes.len() - 1).take_while(is_padding).count();
        serializer.serialize_bytes(&bytes[start..])
    }
}

macro_rules! symbols {
    ($name:ident: $($variant:ident),+) => {
        #[derive(Debug, Clone, Copy, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($variant),+ }

        impl $name {
            pub const ALL: [Self; [$(stringify!($variant)),+].len()] = [$(Self::$variant),+];
        }
    };
}

symbols!(Line: Motor, Household, Travel, Pet, Legal);
symbols!(Channel: Web, App, Broker, Phone, Comparison);
symbols!(Plan: Basic, Comfort, Premium);
symbols!(Status: Draft, OnSale, Closed);
symbols!(Role: Policyholder, Insured, Payer);
symbols!(Purpose: Advertising, Profiling, Partners);
symbols!(AccountReason: Cancelled, MovedAway, Deceased, Merged);
symbols!(ContactReason: AccountClosed, Objected, Deceased, Duplicate);
symbols!(Step: Cover, Price, PersonalData, Payment);
symbols!(FailureReason: Price, Competitor, Unreachable, NotInsurable);
symbols!(FileFormat: Csv, Gdv, Bipro);
symbols!(Payment: Yearly, HalfYearly, Quarterly, Monthly);

impl Line {
    pub fn name(self) -> &'static str {
        match self {
            Self::Motor => "motor",
            Self::Household => "household",
            Self::Travel => "travel",
            Self::Pet => "pet",
            Self::Legal => "legal",
        }
    }
}

impl FileFormat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Gdv => "gdv",
            Self::Bipro => "bipro",
        }
    }
}

#[derive(Debug, Serialize)]
pub struct ProductUpdated {
    pub product_code: String,
    pub version: i32,
    pub status: Status,
    pub title: String,
    pub base_premium: Cents,
    pub covers: Vec<Cover>,
    pub attributes: BTreeMap<&'static str, &'static str>,
    pub valid_from: i32,
    pub valid_to: Option<i32>,
    pub updated_at: i64,
}

#[derive(Debug, Serialize)]
pub struct Cover {
    pub code: &'static str,
    pub limit: Cents,
    pub deductible: Option<Cents>,
}

#[derive(Debug, Serialize)]
pub struct AccountActivated {
    pub account_id: String,
    pub customer_number: i64,
    pub broker_id: Option<String>,
    pub plan: Plan,
    pub address: Address,
    pub policies: Vec<Policy>,
    pub terms: Vec<Terms>,
    pub preferences: BTreeMap<&'static str, &'static str>,
    pub referred_by: Option<i64>,
    pub activated_at: i64,
}

#[derive(Debug, Serialize)]
pub struct Address {
    pub street: &'static str,
    pub house_number: i32,
    pub postcode: &'static str,
    pub town: &'static str,
}

#[derive(Debug, Serialize)]
pub struct Policy {
    pub policy_number: String,
    pub premium: Cents,
    pub starts_on: i32,
}

#[derive(Debug, Serialize)]
pub struct Terms {
    pub document: &'static str,
    pub edition: &'static str,
    pub accepted_at: i64,
}

#[derive(Debug, Serialize)]
pub struct AccountDeactivated {
    pub account_id: String,
    pub customer_number: i64,
    pub reason: AccountReason,
    pub open_balance: Cents,
    pub merged_into: Option<String>,
    pub deactivated_at: i64,
}

#[derive(Debug, Serialize)]
pub struct ContactActivated {
    pub contact_id: String,
    pub account_id: String,
    pub role: Role,
    pub person: Person,
    pub email: Option<String>,
    pub phone: Option<String>,
    pub consents: Vec<Consent>,
    pub activated_at: i64,
}

#[derive(Debug, Serialize)]
pub struct Person {
    pub given_name: &'static str,
    pub family_name: &'static str,
    pub born_on: i32,
}

#[derive(Debug, Serialize)]
pub struct Consent {
    pub purpose: Purpose,
    pub is_granted: bool,
    pub given_at: i64,
}

#[derive(Debug, Serialize)]
pub struct ContactDeactivated {
    pub contact_id: String,
    pub account_id: String,
    pub reason: ContactReason,
    pub erase_after: Option<i32>,
    pub deactivated_at: i64,
}

#[derive(Debug, Serialize)]
pub struct AbandonedQuote {
    pub contact_id: String,
    pub account_id: String,
    pub lead_id: String,
    pub product_code: String,
    pub premium: Cents,
    pub step: Step,
    pub seconds_on_page: i32,
    pub abandoned_at: i64,
}

#[derive(Debug, Serialize)]
pub struct Purchased {
    pub contact_id: String,
    pub account_id: String,
    pub lead_id: String,
    pub sale_id: String,
    pub product_code: String,
    pub policy_number: String,
    pub premium: Cents,
    pub starts_on: i32,
    pub purchased_at: i64,
}

#[derive(Debug, Serialize)]
pub struct ProductExpired {
    pub contact_id: String,
    pub account_id: String,
    pub product_code: String,
    pub policy_number: String,
    pub is_renewal_offered: bool,
    pub renewal_premium: Option<Cents>,
    pub expired_at: i64,
}

#[derive(Debug, Serialize)]
pub struct LeadGenerated {
    pub lead_id: String,
    pub contact_id: String,
    pub account_id: String,
    pub product_code: String,
    pub line: Line,
    pub channel: Channel,
    pub prospect: Prospect,
    pub score: f64,
    pub quote: Option<Cents>,
    pub interests: Vec<&'static str>,
    pub campaign: BTreeMap<&'static str, &'static str>,
    pub consented: bool,
    pub generated_at: i64,
}

#[derive(Debug, Serialize)]
pub struct Prospect {
    pub birth_year: i32,
    pub postcode: &'static str,
    pub town: &'static str,
    pub email: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct LeadFailed {
    pub lead_id: String,
    pub reason: FailureReason,
    pub competitor: Option<&'static str>,
    pub calls: Vec<i64>,
    pub failed_at: i64,
}

#[derive(Debug, Serialize)]
pub struct SalesFileReceived {
    pub file_id: String,
    pub broker_id: String,
    pub file_name: String,
    pub format: FileFormat,
    pub period: Period,
    pub sales: i32,
    pub total: Cents,
    pub received_at: i64,
}

#[derive(Debug, Serialize)]
pub struct Period {
    pub from_day: i32,
    pub to_day: i32,
}

#[derive(Debug, Serialize)]
pub struct SaleConfirmed {
    pub sale_id: String,
    pub file_id: String,
    pub lead_id: String,
    pub contact_id: String,
    pub account_id: String,
    pub product_code: String,
    pub premium: Cents,
    pub payment: Payment,
    pub commission: Commission,
    pub riders: Vec<Rider>,
    pub starts_on: i32,
    pub confirmed_at: i64,
}

#[derive(Debug, Serialize)]
pub struct Commission {
    pub percent: i32,
    pub amount: Cents,
}

#[derive(Debug, Serialize)]
pub struct Rider {
    pub code: &'static str,
    pub premium: Cents,
}

#[cfg(test)]
mod tests {
    use apache_avro::Schema;
    use apache_avro::writer::datum::GenericDatumWriter;

    use super::*;

    #[test]
    fn cents_take_as_few_bytes_as_they_need() {
        let schema = Schema::parse_str(r#"{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}"#)
            .expect("a schema");
        let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
        for (cents, expected) in
            [(0, vec![0]), (127, vec![127]), (128, vec![0, 128]), (-1, vec![255]), (-129, vec![255, 127])]
        {
            let datum = writer.write_ser_to_vec(&Cents(cents)).expect("a datum");
            assert_eq!(datum[1..], expected, "{cents}");
        }
    }
}
