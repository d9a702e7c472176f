//! The story's events: what three teams of an insurer publish, as Avro.
//!
//! The same seed tells the same story: event `n` of a hub has the same ids in every run, and a
//! run that begins at `n` goes on where one that ended there stopped. Accounts name the lead
//! that they began with, so the tables can be joined.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::writer::datum::GenericDatumWriter;
use chrono::{DateTime, SecondsFormat, TimeZone as _, Utc};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::{Serialize, Serializer};
use uuid::{Builder, Uuid};

/// When the story begins: Monday, 2026-01-05, 08:00 UTC, in epoch milliseconds.
const BEGINS_AT_MS: i64 = 1_767_600_000_000;
const MS_PER_DAY: i64 = 86_400_000;

/// Every other lead becomes an account, since there are half as many of them.
const LEADS_PER_ACCOUNT: u64 = 2;

const TOWNS: [(&str, &str); 8] = [
    ("10115", "Berlin"),
    ("20095", "Hamburg"),
    ("50667", "Köln"),
    ("60311", "Frankfurt am Main"),
    ("70173", "Stuttgart"),
    ("80331", "München"),
    ("90402", "Nürnberg"),
    ("01067", "Dresden"),
];
const STREETS: [&str; 6] =
    ["Lindenstraße", "Am Mühlbach", "Goethestraße", "Ringstraße", "Kastanienallee", "Marktplatz"];
const INTERESTS: [&str; 6] = ["theft", "glass", "abroad", "flood", "bicycle", "legal aid"];
const CAMPAIGNS: [&str; 4] = ["spring", "newsletter", "search", "partners"];

/// A kind of event of the story, and the hub that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    LeadGenerated,
    AccountActivated,
    ProductUpdated,
}

impl Fact {
    pub const ALL: [Self; 3] = [Self::LeadGenerated, Self::AccountActivated, Self::ProductUpdated];

    pub fn hub(self) -> &'static str {
        match self {
            Self::LeadGenerated => "leads",
            Self::AccountActivated => "accounts",
            Self::ProductUpdated => "products",
        }
    }

    /// The CloudEvents type, and the name of its schema.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeadGenerated => "lead.generated",
            Self::AccountActivated => "account.activated",
            Self::ProductUpdated => "product.updated",
        }
    }

    /// The team that publishes it: the group of its schema, too.
    pub fn team(self) -> &'static str {
        match self {
            Self::LeadGenerated => "conversions",
            Self::AccountActivated => "customer",
            Self::ProductUpdated => "product",
        }
    }

    pub fn avsc(self) -> &'static str {
        match self {
            Self::LeadGenerated => include_str!("../../../schemas/lead.generated.avsc"),
            Self::AccountActivated => include_str!("../../../schemas/account.activated.avsc"),
            Self::ProductUpdated => include_str!("../../../schemas/product.updated.avsc"),
        }
    }

    /// Whether its events belong together by key.
    pub fn has_keys(self) -> bool {
        self != Self::LeadGenerated
    }

    /// How many of `events` are of this kind: six, three and one of ten.
    pub fn share_of(self, events: u64) -> u64 {
        let (leads, accounts) = (events * 6 / 10, events * 3 / 10);
        match self {
            Self::LeadGenerated => leads,
            Self::AccountActivated => accounts,
            Self::ProductUpdated => events - leads - accounts,
        }
    }
}

/// An event before it is framed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub id: Uuid,
    /// RFC 3339, UTC.
    pub time: String,
    /// What keeps events that belong together in order; leads don't belong together.
    pub key: Option<&'static str>,
    /// The Avro datum.
    pub body: Vec<u8>,
}

/// Tells the events of one kind, one after the other.
pub struct Story<'s> {
    fact: Fact,
    seed: u64,
    next: u64,
    rng: StdRng,
    writer: GenericDatumWriter<'s>,
}

impl<'s> Story<'s> {
    /// Goes on at event `next`; `schema` is the parsed [`Fact::avsc`].
    ///
    /// # Errors
    /// When the schema can't be resolved.
    pub fn try_new(fact: Fact, schema: &'s Schema, seed: u64, next: u64) -> Result<Self, apache_avro::Error> {
        let rng = StdRng::seed_from_u64(mix(seed, fact as u64, next));
        Ok(Self { fact, seed, next, rng, writer: GenericDatumWriter::builder(schema).build()? })
    }

    /// # Errors
    /// When an event doesn't fit its schema.
    pub fn tell(&mut self) -> Result<Told, apache_avro::Error> {
        let number = self.next;
        self.next += 1;
        // A lead every two seconds or so, on average.
        let at_ms =
            BEGINS_AT_MS + i64::try_from(number).unwrap_or(i64::MAX / 4096) * 2000 + self.rng.random_range(0..2000);
        let (key, body) = match self.fact {
            Fact::LeadGenerated => {
                let lead = self.lead(number, at_ms);
                (None, self.writer.write_ser_to_vec(&lead)?)
            }
            Fact::AccountActivated => {
                let account = self.account(number, at_ms);
                (Some(account.address.town), self.writer.write_ser_to_vec(&account)?)
            }
            Fact::ProductUpdated => {
                let (line, product) = self.product(number, at_ms);
                (Some(line), self.writer.write_ser_to_vec(&product)?)
            }
        };
        Ok(Told { id: self.id(self.fact, number), time: rfc3339(at_ms), key, body })
    }

    /// The id of an event of the story, told or not.
    fn id(&self, fact: Fact, number: u64) -> Uuid {
        let (high, low) = (mix(self.seed, fact as u64, !number), mix(!self.seed, fact as u64, number));
        Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes()).into_uuid()
    }

    fn lead(&mut self, number: u64, at_ms: i64) -> LeadGenerated {
        let lead_id = self.id(Fact::LeadGenerated, number).to_string();
        let rng = &mut self.rng;
        let &(postcode, town) = pick(&TOWNS, rng);
        let birth_year = rng.random_range(1940..2008);
        let interests = INTERESTS.iter().copied().filter(|_| rng.random_bool(0.25)).collect();
        let campaign = match rng.random_bool(0.4) {
            true => BTreeMap::from([("name", *pick(&CAMPAIGNS, rng)), ("medium", "online")]),
            false => BTreeMap::new(),
        };
        LeadGenerated {
            line: *pick(&Line::ALL, rng),
            channel: *pick(&Channel::ALL, rng),
            prospect: Prospect {
                birth_year,
                postcode,
                town,
                email: rng.random_bool(0.7).then(|| format!("prospect{number}@example.com")),
            },
            score: f64::from(rng.random_range(0..=1000_u32)) / 1000.0,
            quote: rng.random_bool(0.8).then(|| Cents(rng.random_range(4_900..240_000))),
            interests,
            campaign,
            consented: rng.random_bool(0.6),
            generated_at: at_ms,
            lead_id,
        }
    }

    fn account(&mut self, number: u64, at_ms: i64) -> AccountActivated {
        let account_id = self.id(Fact::AccountActivated, number).to_string();
        let lead_id = self.id(Fact::LeadGenerated, number * LEADS_PER_ACCOUNT).to_string();
        let rng = &mut self.rng;
        let &(postcode, town) = pick(&TOWNS, rng);
        let today = at_ms / MS_PER_DAY;
        let policies = (0..rng.random_range(1..=3))
            .map(|policy| Policy {
                policy_number: format!("{:07}-{policy}", number + 1),
                premium: Cents(rng.random_range(4_900..240_000)),
                starts_on: i32::try_from(today).unwrap_or(i32::MAX - 90) + rng.random_range(0..90),
            })
            .collect();
        let terms = ["terms-of-use", "privacy", "electronic-post"]
            .into_iter()
            .map(|document| Terms {
                document,
                edition: pick::<&str>(&["2025-07", "2026-01"], rng),
                accepted_at: at_ms - rng.random_range(0..600_000),
            })
            .collect();
        AccountActivated {
            account_id,
            customer_number: 1_000_000 + i64::try_from(number).unwrap_or(i64::MAX / 2),
            lead_id: rng.random_bool(0.9).then_some(lead_id),
            plan: *pick(&Plan::ALL, rng),
            address: Address {
                street: pick::<&str>(&STREETS, rng),
                house_number: rng.random_range(1..200),
                postcode,
                town,
            },
            policies,
            terms,
            preferences: BTreeMap::from([
                ("contact", *pick(&["email", "post", "app"], rng)),
                ("language", *pick(&["de", "en"], rng)),
            ]),
            referred_by: rng.random_bool(0.1).then(|| 1_000_000 + rng.random_range(0..1000)),
            activated_at: at_ms * 1000 + rng.random_range(0..1000),
        }
    }

    fn product(&mut self, number: u64, at_ms: i64) -> (&'static str, ProductUpdated) {
        let rng = &mut self.rng;
        let line = pick(&Line::ALL, rng).name();
        let plan = *pick(&["basic", "comfort", "premium"], rng);
        let today = i32::try_from(at_ms / MS_PER_DAY).unwrap_or(i32::MAX - 730);
        let covers = ["liability", "damage", "assistance"]
            .into_iter()
            .map(|code| Cover {
                code,
                limit: Cents(rng.random_range(1..=100) * 10_000_000),
                deductible: rng.random_bool(0.5).then(|| Cents(rng.random_range(1..=10) * 15_000)),
            })
            .collect();
        let product = ProductUpdated {
            product_code: format!("{line}-{plan}"),
            version: i32::try_from(number + 1).unwrap_or(i32::MAX),
            status: *pick(&Status::ALL, rng),
            title: format!("{line} insurance, {plan}"),
            base_premium: Cents(rng.random_range(4_900..90_000)),
            covers,
            attributes: BTreeMap::from([("tariff", *pick(&["2025", "2026"], rng)), ("channel", "all")]),
            valid_from: today + 1,
            valid_to: rng.random_bool(0.3).then(|| today + rng.random_range(180..730)),
            updated_at: at_ms,
        };
        (line, product)
    }
}

fn pick<'a, T>(choices: &'a [T], rng: &mut StdRng) -> &'a T {
    choices.choose(rng).expect("a choice of the story isn't empty")
}

fn rfc3339(at_ms: i64) -> String {
    let time: DateTime<Utc> = Utc.timestamp_millis_opt(at_ms).single().unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Three numbers into one, well mixed (the finalizer of splitmix64).
fn mix(seed: u64, fact: u64, number: u64) -> u64 {
    let mut mixed = seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ fact.rotate_left(56);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Euro cents: a decimal of scale 2.
#[derive(Debug, Clone, Copy)]
struct Cents(i64);

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
        enum $name { $($variant),+ }

        impl $name {
            const ALL: [Self; [$(stringify!($variant)),+].len()] = [$(Self::$variant),+];
        }
    };
}

symbols!(Line: Motor, Household, Travel, Pet, Legal);
symbols!(Channel: Web, App, Broker, Phone, Comparison);
symbols!(Plan: Basic, Comfort, Premium);
symbols!(Status: Draft, OnSale, Closed);

impl Line {
    fn name(self) -> &'static str {
        match self {
            Self::Motor => "motor",
            Self::Household => "household",
            Self::Travel => "travel",
            Self::Pet => "pet",
            Self::Legal => "legal",
        }
    }
}

#[derive(Debug, Serialize)]
struct LeadGenerated {
    lead_id: String,
    line: Line,
    channel: Channel,
    prospect: Prospect,
    score: f64,
    quote: Option<Cents>,
    interests: Vec<&'static str>,
    campaign: BTreeMap<&'static str, &'static str>,
    consented: bool,
    generated_at: i64,
}

#[derive(Debug, Serialize)]
struct Prospect {
    birth_year: i32,
    postcode: &'static str,
    town: &'static str,
    email: Option<String>,
}

#[derive(Debug, Serialize)]
struct AccountActivated {
    account_id: String,
    customer_number: i64,
    lead_id: Option<String>,
    plan: Plan,
    address: Address,
    policies: Vec<Policy>,
    terms: Vec<Terms>,
    preferences: BTreeMap<&'static str, &'static str>,
    referred_by: Option<i64>,
    activated_at: i64,
}

#[derive(Debug, Serialize)]
struct Address {
    street: &'static str,
    house_number: i32,
    postcode: &'static str,
    town: &'static str,
}

#[derive(Debug, Serialize)]
struct Policy {
    policy_number: String,
    premium: Cents,
    starts_on: i32,
}

#[derive(Debug, Serialize)]
struct Terms {
    document: &'static str,
    edition: &'static str,
    accepted_at: i64,
}

#[derive(Debug, Serialize)]
struct ProductUpdated {
    product_code: String,
    version: i32,
    status: Status,
    title: String,
    base_premium: Cents,
    covers: Vec<Cover>,
    attributes: BTreeMap<&'static str, &'static str>,
    valid_from: i32,
    valid_to: Option<i32>,
    updated_at: i64,
}

#[derive(Debug, Serialize)]
struct Cover {
    code: &'static str,
    limit: Cents,
    deductible: Option<Cents>,
}

#[cfg(test)]
mod tests {
    use apache_avro::reader::datum::GenericDatumReader;
    use apache_avro::types::Value;

    use super::*;

    fn told(fact: Fact, seed: u64, next: u64, count: usize) -> Vec<Told> {
        let schema = Schema::parse_str(fact.avsc()).expect("a schema");
        let mut story = Story::try_new(fact, &schema, seed, next).expect("a story");
        (0..count).map(|_| story.tell().expect("an event")).collect()
    }

    #[test]
    fn every_event_can_be_read_with_its_schema() {
        for fact in Fact::ALL {
            let schema = Schema::parse_str(fact.avsc()).expect("a schema");
            let reader = GenericDatumReader::builder(&schema).build().expect("a reader");
            for event in told(fact, 7, 0, 500) {
                let mut rest = event.body.as_slice();
                let value = reader.read_value(&mut rest).expect("a datum");
                assert!(matches!(value, Value::Record(_)) && rest.is_empty(), "{value:?}");
            }
        }
    }

    #[test]
    fn the_same_seed_tells_the_same_story() {
        for fact in Fact::ALL {
            assert_eq!(told(fact, 1, 40, 50), told(fact, 1, 40, 50));
            assert_ne!(told(fact, 1, 40, 1), told(fact, 2, 40, 1));
        }
    }

    #[test]
    fn ids_are_told_once_over_runs_and_hubs() {
        let mut ids: Vec<_> = Fact::ALL
            .into_iter()
            .flat_map(|fact| [told(fact, 1, 0, 1000), told(fact, 1, 1000, 1000)])
            .flatten()
            .collect();
        ids.sort_by_key(|event| event.id);
        ids.dedup_by_key(|event| event.id);
        assert_eq!(ids.len(), 6000);
    }

    #[test]
    fn the_shares_add_up() {
        for events in [0, 1, 9, 10, 2000, 99_999] {
            assert_eq!(Fact::ALL.iter().map(|fact| fact.share_of(events)).sum::<u64>(), events);
        }
    }

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
