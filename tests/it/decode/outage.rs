//! A registry that can't be asked is nobody's reject.

use std::sync::atomic::AtomicBool;

use sluicebox::decode::DecodeError;
use sluicebox::error::{Classify, Kind, Retry};

use super::*;

/// Down until it is told otherwise.
struct Flaky {
    up: AtomicBool,
    shelf: Arc<Shelf>,
}

#[async_trait]
impl SchemaRegistry for Flaky {
    fn names(&self, kind: IdKind) -> bool {
        kind == IdKind::Guid
    }

    async fn schema(&self, id: &str) -> Result<Arc<RegisteredSchema>, RegistryError> {
        if self.up.load(Ordering::Relaxed) {
            return self.shelf.schema(id).await;
        }
        Err(RegistryError::Status { endpoint: "https://insurer.servicebus.windows.net".to_owned(), status: 503 })
    }
}

#[tokio::test]
async fn an_outage_is_an_error_that_passes_and_the_same_batch_decodes_then() {
    let registry = Arc::new(Flaky { up: AtomicBool::new(false), shelf: Shelf::with(&[(LEAD_ID, LEAD)]) });
    let decoder = by_content_type(registry.clone());
    let events = batch(vec![event(0, Some(LEAD_ID), lead_bytes(0)), event(1, None, vec![])]);

    let error = decoder.decode(events.clone()).await.expect_err("an outage");
    assert!(matches!(&error, DecodeError::Registry { id, .. } if id == LEAD_ID));
    assert_eq!((error.kind(), error.retry()), (Kind::External, Retry::Backoff));
    assert!(error.hint().is_some());

    registry.up.store(true, Ordering::Relaxed);
    let decoded = decoder.decode(events.clone()).await.expect("decoded");
    assert_eq!((decoded.batches[0].num_rows(), decoded.rejects.len()), (1, 1));

    // What was seen before needs no registry.
    registry.up.store(false, Ordering::Relaxed);
    let decoded = decoder.decode(events).await.expect("decoded");
    assert_eq!((decoded.batches[0].num_rows(), decoded.rejects.len()), (1, 1));
}

/// Knows no schema until it is told otherwise.
struct Late {
    registered: AtomicBool,
    shelf: Arc<Shelf>,
}

#[async_trait]
impl SchemaRegistry for Late {
    fn names(&self, kind: IdKind) -> bool {
        kind == IdKind::Guid
    }

    async fn schema(&self, id: &str) -> Result<Arc<RegisteredSchema>, RegistryError> {
        if self.registered.load(Ordering::Relaxed) {
            return self.shelf.schema(id).await;
        }
        Err(RegistryError::NotFound { id: id.to_owned() })
    }
}

#[tokio::test]
async fn a_schema_that_is_registered_later_is_found() {
    let registry = Arc::new(Late { registered: AtomicBool::new(false), shelf: Shelf::with(&[(LEAD_ID, LEAD)]) });
    let decoder = by_content_type(registry.clone());
    let events = batch(vec![event(0, Some(LEAD_ID), lead_bytes(0))]);

    let decoded = decoder.decode(events.clone()).await.expect("decoded");
    assert_eq!(decoded.rejects[0].class, RejectClass::SchemaNotFound);
    assert_eq!(decoded.rejects[0].text, format!("the registry has no schema `{LEAD_ID}`"));
    assert_eq!(decoded.rejects[0].schema_id.as_deref(), Some(LEAD_ID));

    registry.registered.store(true, Ordering::Relaxed);
    let decoded = decoder.decode(events).await.expect("decoded");
    assert_eq!((decoded.batches[0].num_rows(), decoded.rejects.len()), (1, 0));
}
