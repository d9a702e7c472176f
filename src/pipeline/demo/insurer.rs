//! What the events of the story say: a value for each field of each schema.
//!
//! All of it is drawn from the seed and the number of what happened, so an event that is sent twice has the same
//! bytes. What other hubs tell too (ids, premiums, products) comes from the [`Plot`]. A small share of the values is
//! wrong: a score above one, a premium below zero, a house without a number, an address without `@`.

use std::collections::BTreeMap;

use apache_avro::writer::datum::GenericDatumWriter;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use uuid::{Builder, Uuid};

use super::chapters::{Occurrence, Plot, SALES, mix};
use super::facts::Fact;
use super::payloads::{
    AbandonedQuote, AccountActivated, AccountDeactivated, AccountReason, Address, Cents, Channel, Commission, Consent,
    ContactActivated, ContactDeactivated, ContactReason, Cover, FailureReason, FileFormat, LeadFailed, LeadGenerated,
    Line, Payment, Period, Person, Plan, Policy, ProductExpired, ProductUpdated, Prospect, Purchased, Purpose, Rider,
    Role, SaleConfirmed, SalesFileReceived, Status, Step, Terms,
};

const MS_PER_DAY: i64 = 86_400_000;

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
const GIVEN_NAMES: [&str; 8] = ["Anna", "Ben", "Clara", "Deniz", "Emil", "Frieda", "Jörg", "Zoë"];
const FAMILY_NAMES: [&str; 8] = ["Albrecht", "Böhm", "Çelik", "Fischer", "Krüger", "Nowak", "Schäfer", "Weiß"];
const INTERESTS: [&str; 6] = ["theft", "glass", "abroad", "flood", "bicycle", "legal aid"];
const CAMPAIGNS: [&str; 4] = ["spring", "newsletter", "search", "partners"];
const BROKERS: [&str; 6] = ["alster", "havel", "isar", "main", "neckar", "spree"];
const COMPETITORS: [&str; 3] = ["Allgemeine", "Direktschutz", "Nordlicht"];
const RIDERS: [&str; 3] = ["glass", "abroad", "no deductible"];
const PLANS: [&str; 3] = ["basic", "comfort", "premium"];

/// One in so many events of a kind has a value that no rule allows.
const ONE_IN_BAD: u64 = 80;

/// Draws the values.
#[derive(Debug, Clone, Copy)]
pub struct Insurer {
    pub plot: Plot,
}

impl Insurer {
    /// The event's datum.
    ///
    /// # Errors
    /// When it doesn't fit its schema.
    pub fn datum(self, occurrence: Occurrence, writer: &GenericDatumWriter<'_>) -> Result<Vec<u8>, apache_avro::Error> {
        let at_ms = self.plot.at_ms(occurrence);
        let number = occurrence.thing().0;
        let rng = StdRng::seed_from_u64(mix(self.plot.seed, occurrence.fact as u64, occurrence.number));
        match occurrence.fact {
            Fact::ProductUpdated => writer.write_ser_to_vec(&self.product_updated(number, at_ms, rng)),
            Fact::AccountActivated => writer.write_ser_to_vec(&self.account_activated(number, at_ms, rng)),
            Fact::AccountDeactivated => writer.write_ser_to_vec(&self.account_deactivated(number, at_ms, rng)),
            Fact::ContactActivated => writer.write_ser_to_vec(&self.contact_activated(number, at_ms, rng)),
            Fact::ContactDeactivated => writer.write_ser_to_vec(&self.contact_deactivated(number, at_ms, rng)),
            Fact::ContactAbandonedQuote => writer.write_ser_to_vec(&self.abandoned_quote(number, at_ms, rng)),
            Fact::ContactPurchased => writer.write_ser_to_vec(&self.purchased(number, at_ms, rng)),
            Fact::ContactProductExpired => writer.write_ser_to_vec(&self.product_expired(number, at_ms, rng)),
            Fact::LeadGenerated => writer.write_ser_to_vec(&self.lead_generated(number, at_ms, rng)),
            Fact::LeadFailed => writer.write_ser_to_vec(&self.lead_failed(number, at_ms, rng)),
            Fact::SalesFileReceived => writer.write_ser_to_vec(&self.sales_file_received(number, at_ms, rng)),
            Fact::SaleConfirmed => writer.write_ser_to_vec(&self.sale_confirmed(number, at_ms, rng)),
        }
    }

    /// The id of something of the story, told or not.
    pub fn id(self, what: &str, number: u64) -> Uuid {
        let (high, low) = (self.plot.draw(what, !number, u64::MAX), self.plot.draw(what, number, u64::MAX));
        Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes()).into_uuid()
    }

    /// What keeps the events of one thing in order; those of leads come as they like.
    pub fn key(self, occurrence: Occurrence) -> Option<&'static str> {
        let number = occurrence.thing().0;
        let of_account = |account| Some(self.town(account).1);
        let of_lead = |lead| of_account(self.plot.account_of(self.plot.contact_of(lead)));
        match occurrence.fact {
            Fact::ProductUpdated => Some(self.product(self.plot.product_of_version(number)).0.name()),
            Fact::AccountActivated | Fact::AccountDeactivated => of_account(number),
            Fact::ContactActivated | Fact::ContactDeactivated => of_account(self.plot.account_of(number)),
            Fact::ContactAbandonedQuote => of_lead(self.plot.lead_of_quote(number)),
            Fact::ContactPurchased => of_lead(self.plot.lead_of_sale(number)),
            Fact::ContactProductExpired => of_account(self.plot.account_of(self.plot.contact_of_expiry(number))),
            Fact::LeadGenerated | Fact::LeadFailed => None,
            Fact::SalesFileReceived => Some(self.broker(number)),
            Fact::SaleConfirmed => Some(self.broker(number / SALES)),
        }
    }

    fn uuid(self, what: &str, number: u64) -> String {
        self.id(what, number).to_string()
    }

    fn town(self, account: u64) -> (&'static str, &'static str) {
        TOWNS[self.plot.draw("town", account, TOWNS.len() as u64) as usize]
    }

    fn broker(self, file: u64) -> &'static str {
        BROKERS[self.broker_number(file)]
    }

    fn broker_number(self, file: u64) -> usize {
        self.plot.draw("broker", file, BROKERS.len() as u64) as usize
    }

    fn product(self, product: u64) -> (Line, &'static str) {
        (Line::ALL[product as usize % Line::ALL.len()], PLANS[product as usize / Line::ALL.len() % PLANS.len()])
    }

    fn product_code(self, product: u64) -> String {
        let (line, plan) = self.product(product);
        format!("{}-{plan}", line.name())
    }

    fn customer_number(self, account: u64) -> i64 {
        1_000_000 + i64::try_from(account).unwrap_or(i64::MAX / 2)
    }

    fn is_bad(self, what: &str, number: u64) -> bool {
        self.plot.draw(what, number, ONE_IN_BAD) == 0
    }

    fn product_updated(self, number: u64, at_ms: i64, mut rng: StdRng) -> ProductUpdated {
        let rng = &mut rng;
        let product = self.plot.product_of_version(number);
        let (line, plan) = self.product(product);
        let today = day(at_ms);
        let covers = ["liability", "damage", "assistance"]
            .into_iter()
            .map(|code| Cover {
                code,
                limit: Cents(rng.random_range(1..=100) * 10_000_000),
                deductible: rng.random_bool(0.5).then(|| Cents(rng.random_range(1..=10) * 15_000)),
            })
            .collect();
        // Products are few: more of them are bad, so that a small demo has one.
        let sign = if self.plot.draw("bad product", number, ONE_IN_BAD / 4) == 0 { -1 } else { 1 };
        ProductUpdated {
            product_code: self.product_code(product),
            version: i32::try_from(number + 1).unwrap_or(i32::MAX),
            status: *pick(&Status::ALL, rng),
            title: format!("{} insurance, {plan}", line.name()),
            base_premium: Cents(sign * rng.random_range(4_900..90_000)),
            covers,
            attributes: BTreeMap::from([("tariff", *pick(&["2025", "2026"], rng)), ("channel", "all")]),
            valid_from: today + 1,
            valid_to: rng.random_bool(0.3).then(|| today + rng.random_range(180..730)),
            updated_at: at_ms,
        }
    }

    fn account_activated(self, number: u64, at_ms: i64, mut rng: StdRng) -> AccountActivated {
        let rng = &mut rng;
        let (postcode, town) = self.town(number);
        let policies = (0..rng.random_range(1..=3))
            .map(|policy| Policy {
                policy_number: format!("{:07}-{policy}", number + 1),
                premium: Cents(rng.random_range(4_900..240_000)),
                starts_on: day(at_ms) + rng.random_range(0..90),
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
        let house_number = if self.is_bad("bad account", number) { 0 } else { rng.random_range(1..200) };
        AccountActivated {
            account_id: self.uuid("account", number),
            customer_number: self.customer_number(number),
            broker_id: rng.random_bool(0.9).then(|| self.uuid("broker", rng.random_range(0..BROKERS.len() as u64))),
            plan: *pick(&Plan::ALL, rng),
            address: Address { street: pick::<&str>(&STREETS, rng), house_number, postcode, town },
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

    fn account_deactivated(self, number: u64, at_ms: i64, mut rng: StdRng) -> AccountDeactivated {
        let rng = &mut rng;
        let reason = *pick(&AccountReason::ALL, rng);
        AccountDeactivated {
            account_id: self.uuid("account", number),
            customer_number: self.customer_number(number),
            merged_into: matches!(reason, AccountReason::Merged)
                .then(|| self.uuid("account", number.saturating_sub(1))),
            reason,
            open_balance: Cents(rng.random_range(-20_000..50_000)),
            deactivated_at: at_ms * 1000,
        }
    }

    fn contact_activated(self, number: u64, at_ms: i64, mut rng: StdRng) -> ContactActivated {
        let rng = &mut rng;
        let (given_name, family_name) = (*pick(&GIVEN_NAMES, rng), *pick(&FAMILY_NAMES, rng));
        let at = if self.is_bad("bad contact", number) { " at " } else { "@" };
        let role = if number % 12 == 11 { Role::Insured } else { *pick(&Role::ALL, rng) };
        let consents = Purpose::ALL
            .into_iter()
            .map(|purpose| Consent { purpose, is_granted: rng.random_bool(0.6), given_at: at_ms })
            .collect();
        ContactActivated {
            contact_id: self.uuid("contact", number),
            account_id: self.uuid("account", self.plot.account_of(number)),
            role,
            person: Person { given_name, family_name, born_on: rng.random_range(-10_950..13_800) },
            email: rng.random_bool(0.8).then(|| format!("contact{number}{at}example.com")),
            phone: rng.random_bool(0.5).then(|| format!("+49 30 {:07}", rng.random_range(0..10_000_000))),
            consents,
            activated_at: at_ms,
        }
    }

    fn contact_deactivated(self, number: u64, at_ms: i64, mut rng: StdRng) -> ContactDeactivated {
        let reason = *pick(&ContactReason::ALL, &mut rng);
        ContactDeactivated {
            contact_id: self.uuid("contact", number),
            account_id: self.uuid("account", self.plot.account_of(number)),
            reason,
            erase_after: (!matches!(reason, ContactReason::Duplicate)).then(|| day(at_ms) + 3650),
            deactivated_at: at_ms,
        }
    }

    fn abandoned_quote(self, number: u64, at_ms: i64, mut rng: StdRng) -> AbandonedQuote {
        let lead = self.plot.lead_of_quote(number);
        let contact = self.plot.contact_of(lead);
        AbandonedQuote {
            contact_id: self.uuid("contact", contact),
            account_id: self.uuid("account", self.plot.account_of(contact)),
            lead_id: self.uuid("lead", lead),
            product_code: self.product_code(self.plot.product_of(lead)),
            premium: Cents(self.plot.premium_of(lead)),
            step: *pick(&Step::ALL, &mut rng),
            seconds_on_page: rng.random_range(3..900),
            abandoned_at: at_ms,
        }
    }

    fn purchased(self, number: u64, at_ms: i64, mut rng: StdRng) -> Purchased {
        let lead = self.plot.lead_of_sale(number);
        let contact = self.plot.contact_of(lead);
        Purchased {
            contact_id: self.uuid("contact", contact),
            account_id: self.uuid("account", self.plot.account_of(contact)),
            lead_id: self.uuid("lead", lead),
            sale_id: self.uuid("sale", number),
            product_code: self.product_code(self.plot.product_of(lead)),
            policy_number: format!("P{number:08}"),
            premium: Cents(self.plot.premium_of(lead)),
            starts_on: day(at_ms) + rng.random_range(1..60),
            purchased_at: at_ms,
        }
    }

    fn product_expired(self, number: u64, at_ms: i64, mut rng: StdRng) -> ProductExpired {
        let contact = self.plot.contact_of_expiry(number);
        let is_renewal_offered = rng.random_bool(0.7);
        ProductExpired {
            contact_id: self.uuid("contact", contact),
            account_id: self.uuid("account", self.plot.account_of(contact)),
            product_code: self.product_code(self.plot.draw("expired product", number, 15)),
            policy_number: format!("X{number:08}"),
            is_renewal_offered,
            renewal_premium: is_renewal_offered.then(|| Cents(rng.random_range(4_900..240_000))),
            expired_at: at_ms,
        }
    }

    fn lead_generated(self, number: u64, at_ms: i64, mut rng: StdRng) -> LeadGenerated {
        let rng = &mut rng;
        let contact = self.plot.contact_of(number);
        let product = self.plot.product_of(number);
        let (postcode, town) = self.town(self.plot.account_of(contact));
        let birth_year = if self.is_bad("bad prospect", number) { 2190 } else { rng.random_range(1940..2008) };
        let interests = INTERESTS.iter().copied().filter(|_| rng.random_bool(0.25)).collect();
        let campaign = match rng.random_bool(0.4) {
            true => BTreeMap::from([("name", *pick(&CAMPAIGNS, rng)), ("medium", "online")]),
            false => BTreeMap::new(),
        };
        let score = f64::from(rng.random_range(0..=1000_u32)) / 1000.0;
        LeadGenerated {
            lead_id: self.uuid("lead", number),
            contact_id: self.uuid("contact", contact),
            account_id: self.uuid("account", self.plot.account_of(contact)),
            product_code: self.product_code(product),
            line: self.product(product).0,
            channel: *pick(&Channel::ALL, rng),
            prospect: Prospect {
                birth_year,
                postcode,
                town,
                email: rng.random_bool(0.7).then(|| format!("contact{contact}@example.com")),
            },
            score: if self.is_bad("bad lead", number) { score + 1.5 } else { score },
            quote: rng.random_bool(0.8).then(|| Cents(self.plot.premium_of(number))),
            interests,
            campaign,
            consented: rng.random_bool(0.6),
            generated_at: at_ms,
        }
    }

    fn lead_failed(self, number: u64, at_ms: i64, mut rng: StdRng) -> LeadFailed {
        let rng = &mut rng;
        let reason = *pick(&FailureReason::ALL, rng);
        LeadFailed {
            lead_id: self.uuid("lead", self.plot.lead_of_failure(number)),
            reason,
            competitor: matches!(reason, FailureReason::Competitor).then(|| *pick(&COMPETITORS, rng)),
            calls: (0..rng.random_range(0..4)).map(|call| at_ms - call * 600_000).collect(),
            failed_at: at_ms,
        }
    }

    fn sales_file_received(self, number: u64, at_ms: i64, mut rng: StdRng) -> SalesFileReceived {
        let sales = number * SALES..(number + 1) * SALES;
        let total = sales.map(|sale| self.plot.premium_of(self.plot.lead_of_sale(sale))).sum();
        // Now and then a broker counts a sale that nobody confirms.
        let uncounted = i32::from(self.plot.draw("bad file", number, 12) == 0);
        let broker = self.broker_number(number);
        let format = *pick(&FileFormat::ALL, &mut rng);
        SalesFileReceived {
            file_id: self.uuid("sales file", number),
            broker_id: self.uuid("broker", broker as u64),
            file_name: format!("{}-{number:06}.{}", BROKERS[broker], format.name()),
            format,
            period: Period { from_day: day(at_ms) - 1, to_day: day(at_ms) },
            sales: SALES as i32 + uncounted,
            total: Cents(total),
            received_at: at_ms,
        }
    }

    fn sale_confirmed(self, number: u64, at_ms: i64, mut rng: StdRng) -> SaleConfirmed {
        let rng = &mut rng;
        let lead = self.plot.lead_of_sale(number);
        let contact = self.plot.contact_of(lead);
        let premium = self.plot.premium_of(lead);
        let percent = rng.random_range(5..=20);
        let riders = RIDERS
            .into_iter()
            .filter(|_| rng.random_bool(0.2))
            .map(|code| Rider { code, premium: Cents(premium / 20) })
            .collect();
        SaleConfirmed {
            sale_id: self.uuid("sale", number),
            file_id: self.uuid("sales file", number / SALES),
            lead_id: self.uuid("lead", lead),
            contact_id: self.uuid("contact", contact),
            account_id: self.uuid("account", self.plot.account_of(contact)),
            product_code: self.product_code(self.plot.product_of(lead)),
            premium: Cents(if self.is_bad("bad sale", number) { -premium } else { premium }),
            payment: *pick(&Payment::ALL, rng),
            commission: Commission { percent, amount: Cents(premium * i64::from(percent) / 100) },
            riders,
            starts_on: day(at_ms) + rng.random_range(1..60),
            confirmed_at: at_ms * 1000 + rng.random_range(0..1000),
        }
    }
}

fn pick<'a, T>(choices: &'a [T], rng: &mut StdRng) -> &'a T {
    choices.choose(rng).expect("a choice of the story isn't empty")
}

fn day(at_ms: i64) -> i32 {
    i32::try_from(at_ms / MS_PER_DAY).unwrap_or(i32::MAX - 8192)
}
