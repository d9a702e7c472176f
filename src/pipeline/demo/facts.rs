//! The twelve kinds of facts that the insurer's teams publish, and the hubs that carry them.

/// A kind of event of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    ProductUpdated,
    AccountActivated,
    AccountDeactivated,
    ContactActivated,
    ContactDeactivated,
    ContactAbandonedQuote,
    ContactPurchased,
    ContactProductExpired,
    LeadGenerated,
    LeadFailed,
    SalesFileReceived,
    SaleConfirmed,
}

impl Fact {
    pub const ALL: [Self; 12] = [
        Self::ProductUpdated,
        Self::AccountActivated,
        Self::AccountDeactivated,
        Self::ContactActivated,
        Self::ContactDeactivated,
        Self::ContactAbandonedQuote,
        Self::ContactPurchased,
        Self::ContactProductExpired,
        Self::LeadGenerated,
        Self::LeadFailed,
        Self::SalesFileReceived,
        Self::SaleConfirmed,
    ];

    pub fn hub(self) -> Hub {
        match self {
            Self::ProductUpdated => Hub::Products,
            Self::AccountActivated | Self::AccountDeactivated => Hub::Accounts,
            Self::ContactActivated
            | Self::ContactDeactivated
            | Self::ContactAbandonedQuote
            | Self::ContactPurchased
            | Self::ContactProductExpired => Hub::Contacts,
            Self::LeadGenerated | Self::LeadFailed => Hub::Leads,
            Self::SalesFileReceived | Self::SaleConfirmed => Hub::Sales,
        }
    }

    /// The CloudEvents type, and the name of its schema.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProductUpdated => "product.updated",
            Self::AccountActivated => "account.activated",
            Self::AccountDeactivated => "account.deactivated",
            Self::ContactActivated => "contact.activated",
            Self::ContactDeactivated => "contact.deactivated",
            Self::ContactAbandonedQuote => "contact.abandoned_quote",
            Self::ContactPurchased => "contact.purchased",
            Self::ContactProductExpired => "contact.product_expired",
            Self::LeadGenerated => "lead.generated",
            Self::LeadFailed => "lead.failed",
            Self::SalesFileReceived => "sales_file.received",
            Self::SaleConfirmed => "sale.confirmed",
        }
    }

    pub fn avsc(self) -> &'static str {
        match self {
            Self::ProductUpdated => include_str!("../../../schemas/product.updated.avsc"),
            Self::AccountActivated => include_str!("../../../schemas/account.activated.avsc"),
            Self::AccountDeactivated => include_str!("../../../schemas/account.deactivated.avsc"),
            Self::ContactActivated => include_str!("../../../schemas/contact.activated.avsc"),
            Self::ContactDeactivated => include_str!("../../../schemas/contact.deactivated.avsc"),
            Self::ContactAbandonedQuote => include_str!("../../../schemas/contact.abandoned_quote.avsc"),
            Self::ContactPurchased => include_str!("../../../schemas/contact.purchased.avsc"),
            Self::ContactProductExpired => include_str!("../../../schemas/contact.product_expired.avsc"),
            Self::LeadGenerated => include_str!("../../../schemas/lead.generated.avsc"),
            Self::LeadFailed => include_str!("../../../schemas/lead.failed.avsc"),
            Self::SalesFileReceived => include_str!("../../../schemas/sales_file.received.avsc"),
            Self::SaleConfirmed => include_str!("../../../schemas/sale.confirmed.avsc"),
        }
    }
}

/// A hub for each aggregate; what happens to it is told apart by the event's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hub {
    Products,
    Accounts,
    Contacts,
    Leads,
    Sales,
}

impl Hub {
    pub const ALL: [Self; 5] = [Self::Products, Self::Accounts, Self::Contacts, Self::Leads, Self::Sales];

    pub fn name(self) -> &'static str {
        match self {
            Self::Products => "products",
            Self::Accounts => "accounts",
            Self::Contacts => "contacts",
            Self::Leads => "leads",
            Self::Sales => "sales",
        }
    }

    /// The team that publishes in it: the group of its schemas, too.
    pub fn team(self) -> &'static str {
        match self {
            Self::Products => "product",
            Self::Accounts | Self::Contacts => "customer",
            Self::Leads | Self::Sales => "conversions",
        }
    }

    pub fn facts(self) -> impl Iterator<Item = Fact> {
        Fact::ALL.into_iter().filter(move |fact| fact.hub() == self)
    }

    /// How many of `events` are in this hub: as the chapters of the story have them, so that all
    /// hubs come along at the same pace.
    pub fn share_of(self, events: u64) -> u64 {
        let share = |hub: Self| events * hub.events_per_chapter() / CHAPTER_EVENTS;
        match self {
            Self::Products => events - Self::ALL[1..].iter().map(|hub| share(*hub)).sum::<u64>(),
            other => share(other),
        }
    }

    pub fn events_per_chapter(self) -> u64 {
        match self {
            Self::Products => 3,
            Self::Accounts => 14,
            Self::Contacts => 35,
            Self::Leads => 36,
            Self::Sales => 12,
        }
    }
}

/// Of all hubs together.
pub const CHAPTER_EVENTS: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up() {
        for events in [0, 1, 9, 10, 2000, 99_999] {
            assert_eq!(Hub::ALL.iter().map(|hub| hub.share_of(events)).sum::<u64>(), events);
        }
        assert_eq!(Hub::ALL.iter().map(|hub| hub.events_per_chapter()).sum::<u64>(), CHAPTER_EVENTS);
    }

    #[test]
    fn the_smallest_demo_has_something_in_each_hub() {
        assert!(Hub::ALL.iter().all(|hub| hub.share_of(10) > 0));
    }
}
