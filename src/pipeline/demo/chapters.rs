//! The plot: which event comes when in a hub, and what belongs to what.
//!
//! The story has chapters of four hours. In each of them 11 households open an account, 12 persons
//! become contacts, 28 leads are generated; 10 leads become a sale, 6 fail, 6 see a price and go away:
//!
//! ```text
//! account ◀── contact ◀── lead ◀── sale ──▶ sales file
//!                 └── person of a chapter before     └── in the same chapter, or up to 20 later
//! ```
//!
//! Everything is a function of the seed and a number, so any event can be told alone. An event may come late
//! (after newer ones of the same thing), and a producer that hears no answer sends again what it sent.

use super::facts::{Fact, Hub};

/// When the story begins: Monday, 2026-01-05, 08:00 UTC, in epoch milliseconds.
pub const BEGINS_AT_MS: i64 = 1_767_600_000_000;
pub const CHAPTER_MS: i64 = 4 * 3_600_000;

pub const ACCOUNTS: u64 = 11;
pub const CONTACTS: u64 = 12;
pub const LEADS: u64 = 28;
pub const SALES: u64 = 10;
const QUOTES: u64 = 6;
const EXPIRED: u64 = 3;

/// An account that ends in the chapter after it began, and one that ends at once: told before its beginning.
pub const ENDS_NEXT: u64 = 3;
pub const ENDS_AT_ONCE: u64 = 7;

/// How many chapters after its lead each sale of a chapter is confirmed. The last comes after more than three days.
const SALE_AFTER: [u64; 10] = [0, 0, 0, 0, 1, 1, 2, 4, 8, 20];

/// The order of a chapter's leads by fate: sales, failures, abandoned quotes, and those that stay open.
const FAILS: u64 = SALES;
const ABANDONED: u64 = FAILS + 6;
const OPEN: u64 = ABANDONED + QUOTES;
/// Each generates all numbers below 28.
const STRIDES: [u64; 12] = [1, 3, 5, 9, 11, 13, 15, 17, 19, 23, 25, 27];

/// Set in the number of an account that is activated again.
const AGAIN: u64 = 1 << 48;

/// Product events: the first ones name each product once, then in each eight an older version comes late.
pub const PRODUCTS: u64 = 15;
const LATE_BLOCK: u64 = 8;
const LATE_FROM: u64 = 16;

/// Something that happens once: a kind of event, and the number of the thing that it happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Occurrence {
    pub fact: Fact,
    pub number: u64,
}

impl Occurrence {
    /// The number of its thing, and whether it happens to it for the second time.
    pub fn thing(self) -> (u64, bool) {
        (self.number & !AGAIN, self.number & AGAIN != 0)
    }
}

#[derive(Debug, Clone, Copy)]
enum Beat {
    /// To the thing of this place in the chapter.
    Here(Fact, u64),
    /// To that of the chapter before. The first chapter has none.
    Before(Fact, u64),
    /// An account of the chapter before begins again, in every other chapter.
    Again(u64),
    /// What was sent so many events ago is sent again.
    Repeat(u64),
}

use Beat::{Again, Before, Here, Repeat};
use Fact::{
    AccountActivated as Activated, AccountDeactivated as Deactivated, ContactAbandonedQuote as Quote,
    ContactActivated as Known, ContactDeactivated as Forgotten, ContactProductExpired as Expired,
    ContactPurchased as Purchased, LeadFailed as Failed, LeadGenerated as Lead, SaleConfirmed as Sale,
    SalesFileReceived as File,
};

const OF_ACCOUNTS: [Beat; 14] = [
    Here(Activated, 0),
    Here(Activated, 1),
    Before(Deactivated, ENDS_NEXT),
    Here(Activated, 2),
    Here(Activated, 3),
    Here(Deactivated, ENDS_AT_ONCE),
    Here(Activated, 4),
    Here(Activated, 5),
    Here(Activated, 6),
    Here(Activated, ENDS_AT_ONCE),
    Here(Activated, 8),
    Here(Activated, 9),
    Here(Activated, 10),
    Again(ENDS_NEXT),
];

const OF_CONTACTS: [Beat; 35] = [
    Here(Known, 0),
    Here(Known, 1),
    Here(Purchased, 0),
    Here(Known, 2),
    Here(Quote, 0),
    Before(Forgotten, ENDS_NEXT),
    Here(Known, 3),
    Here(Purchased, 1),
    Here(Known, 4),
    Here(Quote, 1),
    Here(Forgotten, ENDS_AT_ONCE),
    Here(Known, 5),
    Here(Purchased, 2),
    Here(Expired, 0),
    Here(Known, 6),
    Here(Purchased, 3),
    Here(Quote, 2),
    Here(Known, ENDS_AT_ONCE),
    Here(Purchased, 4),
    Here(Known, 8),
    Here(Quote, 3),
    Repeat(3),
    Here(Purchased, 5),
    Here(Known, 9),
    Here(Expired, 1),
    Here(Purchased, 6),
    Here(Known, 10),
    Here(Quote, 4),
    Here(Purchased, 7),
    Here(Known, 11),
    Here(Purchased, 8),
    Here(Expired, 2),
    Here(Quote, 5),
    Here(Purchased, 9),
    Repeat(7),
];

const OF_SALES: [Beat; 12] = [
    Here(Sale, 0),
    Here(Sale, 1),
    Here(Sale, 2),
    Here(File, 0),
    Here(Sale, 3),
    Here(Sale, 4),
    Here(Sale, 5),
    Repeat(2),
    Here(Sale, 6),
    Here(Sale, 7),
    Here(Sale, 8),
    Here(Sale, 9),
];

/// The first failure is that of a lead of the same chapter, told before or after it.
fn of_leads(place: u64) -> Beat {
    match place {
        7 => Here(Failed, 0),
        3 | 12 | 18 | 24 | 30 => Before(Failed, (place / 6).max(1)),
        15 | 34 => Repeat(4),
        _ => Here(Lead, place - [3, 7, 12, 15, 18, 24, 30, 34].iter().filter(|other| **other < place).count() as u64),
    }
}

/// What the hub's event `number` tells.
pub fn occurrence(hub: Hub, number: u64) -> Occurrence {
    if hub == Hub::Products {
        return Occurrence { fact: Fact::ProductUpdated, number: product_version(number) };
    }
    let (chapter, place) = (number / hub.events_per_chapter(), number % hub.events_per_chapter());
    let beat = match hub {
        Hub::Accounts => OF_ACCOUNTS[place as usize],
        Hub::Contacts => OF_CONTACTS[place as usize],
        Hub::Sales => OF_SALES[place as usize],
        Hub::Leads | Hub::Products => of_leads(place),
    };
    let (fact, number) = match beat {
        Here(fact, place) => (fact, chapter * per_chapter(fact) + place),
        Before(fact, place) if chapter > 0 => (fact, (chapter - 1) * per_chapter(fact) + place),
        Again(place) if chapter % 2 == 1 => (Activated, ((chapter - 1) * ACCOUNTS + place) | AGAIN),
        Before(..) => return occurrence(hub, number - 1),
        Again(_) => return occurrence(hub, number - 4),
        Repeat(ago) => return occurrence(hub, number - ago),
    };
    Occurrence { fact, number }
}

/// How many things of this kind a chapter counts.
fn per_chapter(fact: Fact) -> u64 {
    match fact {
        Fact::ProductUpdated => 1,
        Activated | Deactivated => ACCOUNTS,
        Known | Forgotten => CONTACTS,
        Quote => QUOTES,
        Purchased | Sale => SALES,
        Expired => EXPIRED,
        Lead => LEADS,
        Failed => ABANDONED - FAILS,
        File => 1,
    }
}

/// Of each eight product events the fourth and the seventh change places; they are of one product. One in twenty
/// is sent twice.
fn product_version(number: u64) -> u64 {
    if number % 20 == 19 {
        return product_version(number - 4);
    }
    match number % LATE_BLOCK {
        3 if number >= LATE_FROM => number + 3,
        6 if number >= LATE_FROM => number - 3,
        _ => number,
    }
}

/// The seed of a story, and what of it belongs together.
#[derive(Debug, Clone, Copy)]
pub struct Plot {
    pub seed: u64,
}

impl Plot {
    /// Which product a version is of, as a number below [`PRODUCTS`].
    pub fn product_of_version(self, version: u64) -> u64 {
        let told_like = match version % LATE_BLOCK {
            6 if version >= LATE_FROM => version - 3,
            _ => version,
        };
        if told_like < PRODUCTS {
            // 7 and 15 have no divisor in common, so each comes once.
            return (told_like * 7 + self.draw("first product", 0, PRODUCTS)) % PRODUCTS;
        }
        self.draw("product of version", told_like, PRODUCTS)
    }

    pub fn account_of(self, contact: u64) -> u64 {
        (contact / CONTACTS) * ACCOUNTS + (contact % CONTACTS).min(ACCOUNTS - 1)
    }

    /// The person who asked: known since an earlier chapter, and not about to leave.
    pub fn contact_of(self, lead: u64) -> u64 {
        let chapter = (lead / LEADS).saturating_sub(1 + self.draw("chapter of contact", lead, 3));
        let place = self.draw("place of contact", lead, CONTACTS - 2);
        chapter * CONTACTS + place + u64::from(place >= ENDS_NEXT) + u64::from(place + 1 >= ENDS_AT_ONCE)
    }

    pub fn product_of(self, lead: u64) -> u64 {
        self.draw("product of lead", lead, PRODUCTS)
    }

    /// The lead that a sale rests on.
    pub fn lead_of_sale(self, sale: u64) -> u64 {
        let (chapter, place) = (sale / SALES, sale % SALES);
        match chapter.checked_sub(SALE_AFTER[place as usize]) {
            Some(chapter) => self.lead(chapter, place),
            // The story is too young for so late a sale: one of the leads that would have stayed open is sold at once.
            None => self.lead(chapter, OPEN + place - 4),
        }
    }

    pub fn lead_of_failure(self, failure: u64) -> u64 {
        let each = ABANDONED - FAILS;
        self.lead(failure / each, FAILS + failure % each)
    }

    pub fn lead_of_quote(self, quote: u64) -> u64 {
        self.lead(quote / QUOTES, ABANDONED + quote % QUOTES)
    }

    /// A lead of the chapter by its fate.
    fn lead(self, chapter: u64, fate: u64) -> u64 {
        let stride = STRIDES[self.draw("stride", chapter, STRIDES.len() as u64) as usize];
        chapter * LEADS + (fate * stride + self.draw("first lead", chapter, LEADS)) % LEADS
    }

    /// The person whose policy runs out.
    pub fn contact_of_expiry(self, expiry: u64) -> u64 {
        let chapter = (expiry / EXPIRED).saturating_sub(1 + self.draw("chapter of expiry", expiry, 6));
        chapter * CONTACTS + self.draw("place of expiry", expiry, 3)
    }

    /// Euro cents a year: what a lead is quoted, sees, and pays.
    pub fn premium_of(self, lead: u64) -> i64 {
        4_900 + self.draw_ms("premium", lead, 235_100)
    }

    /// When something happened, in epoch milliseconds.
    pub fn at_ms(self, occurrence: Occurrence) -> i64 {
        let (number, again) = occurrence.thing();
        match occurrence.fact {
            Fact::ProductUpdated => {
                begin_of(number / 3) + (number % 3) as i64 * CHAPTER_MS / 3 + self.jitter(occurrence, CHAPTER_MS / 3)
            }
            Activated if again => {
                begin_of(number / ACCOUNTS + 1) + CHAPTER_MS / 2 + self.jitter(occurrence, CHAPTER_MS / 2)
            }
            Activated => self.account_at_ms(number),
            Deactivated if number % ACCOUNTS == ENDS_AT_ONCE => {
                self.account_at_ms(number) + 20 * MINUTE_MS + self.jitter(occurrence, 40 * MINUTE_MS)
            }
            Deactivated => begin_of(number / ACCOUNTS + 1) + self.jitter(occurrence, CHAPTER_MS / 2),
            Known => self.account_at_ms(self.account_of(number)) + self.jitter(occurrence, 9 * MINUTE_MS),
            Forgotten => {
                let account = Occurrence { fact: Deactivated, number: self.account_of(number) };
                self.at_ms(account) + self.jitter(occurrence, 9 * MINUTE_MS)
            }
            Quote => {
                self.lead_at_ms(self.lead_of_quote(number)) + 5 * MINUTE_MS + self.jitter(occurrence, 25 * MINUTE_MS)
            }
            Purchased => self.at_ms(Occurrence { fact: Sale, number }) + self.jitter(occurrence, MINUTE_MS),
            Expired => begin_of(number / EXPIRED) + self.jitter(occurrence, CHAPTER_MS),
            Lead => self.lead_at_ms(number),
            Failed => {
                self.lead_at_ms(self.lead_of_failure(number))
                    + 30 * MINUTE_MS
                    + self.jitter(occurrence, 210 * MINUTE_MS)
            }
            File => begin_of(number) + CHAPTER_MS / 3 + self.jitter(occurrence, CHAPTER_MS / 2),
            Sale => {
                let (lead, chapter) = (self.lead_of_sale(number), number / SALES);
                if lead / LEADS == chapter {
                    self.lead_at_ms(lead) + 10 * MINUTE_MS + self.jitter(occurrence, 80 * MINUTE_MS)
                } else {
                    begin_of(chapter) + self.jitter(occurrence, CHAPTER_MS)
                }
            }
        }
    }

    fn account_at_ms(self, account: u64) -> i64 {
        let step = CHAPTER_MS / ACCOUNTS as i64;
        begin_of(account / ACCOUNTS)
            + (account % ACCOUNTS) as i64 * step
            + self.draw_ms("account", account, step as u64)
    }

    fn lead_at_ms(self, lead: u64) -> i64 {
        let step = CHAPTER_MS / LEADS as i64;
        begin_of(lead / LEADS) + (lead % LEADS) as i64 * step + self.draw_ms("lead", lead, step as u64)
    }

    fn jitter(self, occurrence: Occurrence, below_ms: i64) -> i64 {
        self.draw_ms(occurrence.fact.name(), occurrence.number, below_ms.unsigned_abs())
    }

    fn draw_ms(self, what: &str, number: u64, below: u64) -> i64 {
        i64::try_from(self.draw(what, number, below)).unwrap_or(0)
    }

    /// A number below `below` that looks drawn, and is the same each time.
    pub fn draw(self, what: &str, number: u64, below: u64) -> u64 {
        let named = what.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        mix(self.seed, named, number) % below.max(1)
    }
}

const MINUTE_MS: i64 = 60_000;

fn begin_of(chapter: u64) -> i64 {
    BEGINS_AT_MS + i64::try_from(chapter).unwrap_or(i64::MAX).min(1 << 24) * CHAPTER_MS
}

/// Three numbers into one, well mixed (the finalizer of splitmix64).
pub fn mix(seed: u64, what: u64, number: u64) -> u64 {
    let mut mixed = seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ what.rotate_left(56);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
