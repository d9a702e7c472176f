//! The story's events, one after the other: what three teams of an insurer publish, as Avro.
//!
//! The same seed tells the same story: event `n` of a hub has the same ids in every run, and a
//! run that begins at `n` goes on where one that ended there stopped.

use apache_avro::Schema;
use apache_avro::writer::datum::GenericDatumWriter;
use chrono::{DateTime, SecondsFormat, TimeZone as _, Utc};
use uuid::Uuid;

use super::chapters::{Occurrence, Plot, occurrence};
use super::facts::{Fact, Hub};
use super::insurer::Insurer;

/// An event before it is framed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub fact: Fact,
    pub id: Uuid,
    /// RFC 3339, UTC.
    pub time: String,
    /// What keeps events that belong together in order; leads don't belong together.
    pub key: Option<&'static str>,
    /// The Avro datum.
    pub body: Vec<u8>,
}

/// The schemas of one hub, parsed.
///
/// # Errors
/// When one isn't Avro.
pub fn schemas(hub: Hub) -> Result<Vec<(Fact, Schema)>, apache_avro::Error> {
    hub.facts().map(|fact| Ok((fact, Schema::parse_str(fact.avsc())?))).collect()
}

/// Tells the events of one kind, in any order.
pub struct Teller<'s> {
    fact: Fact,
    insurer: Insurer,
    writer: GenericDatumWriter<'s>,
}

impl<'s> Teller<'s> {
    /// `schema` is the parsed [`Fact::avsc`].
    ///
    /// # Errors
    /// When the schema can't be resolved.
    pub fn try_new(fact: Fact, schema: &'s Schema, seed: u64) -> Result<Self, apache_avro::Error> {
        let insurer = Insurer { plot: Plot { seed } };
        Ok(Self { fact, insurer, writer: GenericDatumWriter::builder(schema).build()? })
    }

    /// What happens to the thing of this number.
    ///
    /// # Errors
    /// When the event doesn't fit its schema.
    pub fn tell(&self, number: u64) -> Result<Told, apache_avro::Error> {
        let occurrence = Occurrence { fact: self.fact, number };
        Ok(Told {
            fact: self.fact,
            id: self.insurer.id(self.fact.name(), number),
            time: rfc3339(self.insurer.plot.at_ms(occurrence)),
            key: self.insurer.key(occurrence),
            body: self.insurer.datum(occurrence, &self.writer)?,
        })
    }
}

/// Tells the events of one hub, one after the other.
pub struct Story<'s> {
    hub: Hub,
    next: u64,
    tellers: Vec<Teller<'s>>,
}

impl<'s> Story<'s> {
    /// Goes on at event `next`; `schemas` are those of [`schemas`].
    ///
    /// # Errors
    /// When a schema can't be resolved.
    pub fn try_new(hub: Hub, schemas: &'s [(Fact, Schema)], seed: u64, next: u64) -> Result<Self, apache_avro::Error> {
        let tellers =
            schemas.iter().map(|(fact, schema)| Teller::try_new(*fact, schema, seed)).collect::<Result<_, _>>()?;
        Ok(Self { hub, next, tellers })
    }

    /// # Errors
    /// When an event doesn't fit its schema.
    pub fn tell(&mut self) -> Result<Told, apache_avro::Error> {
        let Occurrence { fact, number } = occurrence(self.hub, self.next);
        self.next += 1;
        let teller = self.tellers.iter().find(|teller| teller.fact == fact);
        teller.expect("a hub's story has the schemas of all its facts").tell(number)
    }
}

fn rfc3339(at_ms: i64) -> String {
    let time: DateTime<Utc> = Utc.timestamp_millis_opt(at_ms).single().unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use apache_avro::reader::datum::GenericDatumReader;
    use apache_avro::types::Value;

    use super::*;

    fn told(hub: Hub, seed: u64, next: u64, count: usize) -> Vec<Told> {
        let schemas = schemas(hub).expect("schemas");
        let mut story = Story::try_new(hub, &schemas, seed, next).expect("a story");
        (0..count).map(|_| story.tell().expect("an event")).collect()
    }

    /// The events of so many chapters, as their fields.
    fn read(hub: Hub, chapters: u64) -> Vec<(Told, BTreeMap<String, Value>)> {
        let schemas = schemas(hub).expect("schemas");
        let readers: Vec<_> = schemas
            .iter()
            .map(|(fact, schema)| (*fact, GenericDatumReader::builder(schema).build().expect("a reader")))
            .collect();
        let count = usize::try_from(chapters * hub.events_per_chapter()).expect("a count");
        told(hub, 7, 0, count)
            .into_iter()
            .map(|event| {
                let (_, reader) = readers.iter().find(|(fact, _)| *fact == event.fact).expect("its reader");
                let mut rest = event.body.as_slice();
                let value = reader.read_value(&mut rest).expect("a datum");
                assert!(rest.is_empty(), "{value:?}");
                let Value::Record(fields) = value else { panic!("{value:?} is no record") };
                (event, fields.into_iter().collect())
            })
            .collect()
    }

    fn ids(events: &[(Told, BTreeMap<String, Value>)], fact: Fact, field: &str) -> Vec<String> {
        let of_fact = events.iter().filter(|(event, _)| event.fact == fact);
        of_fact
            .map(|(_, fields)| match &fields[field] {
                Value::Uuid(id) => id.to_string(),
                Value::String(text) => text.clone(),
                other => panic!("{field} is {other:?}"),
            })
            .collect()
    }

    fn set(events: &[(Told, BTreeMap<String, Value>)], fact: Fact, field: &str) -> BTreeSet<String> {
        ids(events, fact, field).into_iter().collect()
    }

    #[test]
    fn the_same_seed_tells_the_same_story() {
        for hub in Hub::ALL {
            assert_eq!(told(hub, 1, 40, 50), told(hub, 1, 40, 50));
            assert_eq!(told(hub, 1, 0, 90)[40..], told(hub, 1, 40, 50), "a later run goes on");
            assert_ne!(told(hub, 1, 40, 1)[0].id, told(hub, 2, 40, 1)[0].id);
        }
    }

    #[test]
    fn a_few_events_are_sent_twice_and_the_same() {
        for hub in Hub::ALL {
            let mut by_id = BTreeMap::new();
            let events = told(hub, 1, 0, 2000);
            for event in &events {
                assert_eq!(by_id.entry(event.id).or_insert(event), &event);
            }
            let repeated = events.len() - by_id.len();
            assert!((20..300).contains(&repeated), "{hub:?}: {repeated}");
        }
    }

    #[test]
    fn every_hub_tells_all_its_facts_in_a_chapter() {
        for hub in Hub::ALL {
            let facts: BTreeSet<_> = read(hub, 1).iter().map(|(event, _)| event.fact).collect();
            assert_eq!(facts, hub.facts().collect());
        }
    }

    #[test]
    fn a_sale_has_its_lead_a_lead_its_contact_and_a_contact_its_account() {
        let chapters = 60;
        let [products, accounts, contacts, leads, sales] = Hub::ALL.map(|hub| read(hub, chapters));
        let is_within = |what: &str, some: BTreeSet<String>, all: &BTreeSet<String>| {
            let missing = some.difference(all).count();
            assert_eq!(missing, 0, "{what}: {missing} of {} are told by nobody", some.len());
        };
        let known = set(&accounts, Fact::AccountActivated, "account_id");
        let persons = set(&contacts, Fact::ContactActivated, "contact_id");
        let asked = set(&leads, Fact::LeadGenerated, "lead_id");
        let codes = set(&products, Fact::ProductUpdated, "product_code");
        assert_eq!(codes.len(), 15);
        is_within("accounts that end", set(&accounts, Fact::AccountDeactivated, "account_id"), &known);
        for fact in Hub::Contacts.facts() {
            is_within(fact.name(), set(&contacts, fact, "account_id"), &known);
            is_within(fact.name(), set(&contacts, fact, "contact_id"), &persons);
        }
        is_within("contacts of leads", set(&leads, Fact::LeadGenerated, "contact_id"), &persons);
        is_within("products of leads", set(&leads, Fact::LeadGenerated, "product_code"), &codes);
        is_within("failed leads", set(&leads, Fact::LeadFailed, "lead_id"), &asked);
        is_within("abandoned leads", set(&contacts, Fact::ContactAbandonedQuote, "lead_id"), &asked);
        is_within("sold leads", set(&sales, Fact::SaleConfirmed, "lead_id"), &asked);
        let files = set(&sales, Fact::SalesFileReceived, "file_id");
        is_within("files of sales", set(&sales, Fact::SaleConfirmed, "file_id"), &files);

        // Each lead has one fate at most, and each sale has one lead.
        let sold = set(&sales, Fact::SaleConfirmed, "lead_id");
        assert_eq!(sold.len(), set(&sales, Fact::SaleConfirmed, "sale_id").len());
        assert_eq!(sold, set(&contacts, Fact::ContactPurchased, "lead_id"));
        let failed = set(&leads, Fact::LeadFailed, "lead_id");
        let abandoned = set(&contacts, Fact::ContactAbandonedQuote, "lead_id");
        assert!(sold.is_disjoint(&failed) && sold.is_disjoint(&abandoned) && failed.is_disjoint(&abandoned));
        assert!(sold.len() + failed.len() + abandoned.len() < asked.len(), "some stay open");
    }

    #[test]
    fn things_happen_in_their_order_and_some_are_told_late() {
        let chapters = 60;
        let times = |events: &[(Told, BTreeMap<String, Value>)], fact: Fact, field: &str| {
            let of_fact: Vec<_> = events.iter().enumerate().filter(|(_, (event, _))| event.fact == fact).collect();
            let ids = ids(events, fact, field);
            let times = of_fact.iter().map(|(at, (event, _))| (*at, event.time.clone()));
            ids.into_iter().zip(times).rev().collect::<BTreeMap<_, _>>()
        };
        for (hub, before, after, field) in [
            (Hub::Accounts, Fact::AccountActivated, Fact::AccountDeactivated, "account_id"),
            (Hub::Contacts, Fact::ContactActivated, Fact::ContactDeactivated, "contact_id"),
            (Hub::Leads, Fact::LeadGenerated, Fact::LeadFailed, "lead_id"),
        ] {
            let events = read(hub, chapters);
            let (begun, ended) = (times(&events, before, field), times(&events, after, field));
            let mut late = 0;
            for (id, (place, time)) in &ended {
                let (begun_place, begun_time) = &begun[id];
                assert!(begun_time < time, "{id} ends at {time}, before it began at {begun_time}");
                late += usize::from(begun_place > place);
            }
            assert!(late > 0 && late < ended.len(), "{hub:?}: {late} of {} told late", ended.len());
        }
        let (leads, sales) = (read(Hub::Leads, chapters), read(Hub::Sales, chapters));
        let (asked, sold) =
            (times(&leads, Fact::LeadGenerated, "lead_id"), times(&sales, Fact::SaleConfirmed, "lead_id"));
        assert!(sold.iter().all(|(id, (_, time))| asked[id].1 < *time));
    }

    #[test]
    fn an_older_version_of_a_product_may_come_after_a_newer_one() {
        let events = read(Hub::Products, 60);
        let mut newest: BTreeMap<String, i32> = BTreeMap::new();
        let mut late = 0;
        for (event, fields) in &events {
            let (Value::String(code), Value::Int(version)) = (&fields["product_code"], &fields["version"]) else {
                panic!("{fields:?}")
            };
            let newest = newest.entry(code.clone()).or_default();
            late += usize::from(*version < *newest);
            *newest = (*newest).max(*version);
            assert!(event.key.is_some_and(|key| code.starts_with(key)));
        }
        assert!(late > 5, "{late} late versions");
    }
}
