//! One process at a time maintains a table.
//!
//! In a folder a lock says who: it belongs to the open file, and is gone with the process. In storage a
//! small blob does, put on condition that nobody else changed it, and good for a minute from when it was put
//! last. A leader that dies is followed once that is over. Two leaders at once, by clocks that differ, do
//! no harm: commits are guarded, and what deletes looks first. It is work done twice.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutResult, UpdateVersion};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::pipeline::PipelineError;
use crate::pipeline::lock::FileLock;
use crate::storage::Location;

/// How long a blob says that its holder leads. Longer, and a dead leader is followed later; shorter, and a
/// slow store loses a living one its place.
const HELD_FOR: TimeDelta = TimeDelta::seconds(60);
/// Two tries before it is over.
const RENEWED_EVERY: Duration = Duration::from_secs(20);

/// Whether this process leads.
pub enum Taken {
    Ours(Leader),
    Elsewhere,
}

/// Leads until it is released or dropped.
pub enum Leader {
    Folder { _held: FileLock },
    Storage(Lease),
}

/// What the blob says.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    holder: Uuid,
    until: DateTime<Utc>,
}

pub struct Lease {
    store: Arc<dyn ObjectStore>,
    path: Path,
    holder: Uuid,
    version: UpdateVersion,
}

impl Leader {
    /// # Errors
    /// When the state's place can't be used.
    pub async fn take(state: &Location, table: &str) -> Result<Taken, PipelineError> {
        let place = state.join("maintenance");
        if let Some(folder) = place.folder() {
            let held = FileLock::take(folder.join(format!("{table}.lock")))?;
            return Ok(held.map_or(Taken::Elsewhere, |held| Taken::Ours(Self::Folder { _held: held })));
        }
        let (store, path) = (place.object_store()?, Path::from(format!("{table}.lease")));
        let taken = Lease::take(store, path).await;
        let taken = taken.map_err(|source| PipelineError::MaintenanceState { table: table.to_owned(), source })?;
        Ok(taken.map_or(Taken::Elsewhere, |lease| Taken::Ours(Self::Storage(lease))))
    }

    /// Keeps leading, and returns once that is lost.
    ///
    /// # Cancel safety
    /// The place is held for a minute more at most.
    pub async fn lost(&mut self) -> object_store::Error {
        match self {
            Self::Folder { .. } => std::future::pending().await,
            Self::Storage(lease) => lease.keep().await,
        }
    }

    /// Lets the next one lead at once.
    pub async fn release(self) {
        if let Self::Storage(mut lease) = self
            && let Err(error) = lease.put(DateTime::<Utc>::UNIX_EPOCH).await
        {
            tracing::debug!(%error, "the lead ends by itself");
        }
    }
}

impl Lease {
    async fn take(store: Arc<dyn ObjectStore>, path: Path) -> Result<Option<Self>, object_store::Error> {
        let mut lease =
            Self { store, path, holder: Uuid::new_v4(), version: UpdateVersion { e_tag: None, version: None } };
        let mode = match lease.look().await {
            // A torn one holds nobody off.
            Ok((Some(held), _)) if held.until > Utc::now() => return Ok(None),
            Ok((_, version)) => PutMode::Update(version),
            Err(object_store::Error::NotFound { .. }) => PutMode::Create,
            Err(error) => return Err(error),
        };
        match lease.put_as(mode, Utc::now() + HELD_FOR).await {
            Ok(()) => Ok(Some(lease)),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn keep(&mut self) -> object_store::Error {
        let mut failures = 0;
        loop {
            tokio::time::sleep(RENEWED_EVERY).await;
            match self.renew().await {
                Ok(()) => failures = 0,
                Err(error @ object_store::Error::Precondition { .. }) => return error,
                Err(error) if failures == 1 => return error,
                Err(error) => {
                    failures += 1;
                    tracing::debug!(%error, "the lead of a table could not be renewed: trying again");
                }
            }
        }
    }

    /// Holds it for a minute more. What this process put before without being told is its own, too.
    async fn renew(&mut self) -> Result<(), object_store::Error> {
        let until = Utc::now() + HELD_FOR;
        let refused = match self.put(until).await {
            Err(error @ object_store::Error::Precondition { .. }) => error,
            put => return put,
        };
        let (held, version) = self.look().await?;
        if held.is_none_or(|held| held.holder != self.holder) {
            return Err(refused);
        }
        self.version = version;
        self.put(until).await
    }

    /// What the blob says, where it isn't torn.
    async fn look(&self) -> Result<(Option<Held>, UpdateVersion), object_store::Error> {
        let found = self.store.get(&self.path).await?;
        let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        Ok((serde_json::from_slice(&found.bytes().await?).ok(), version))
    }

    async fn put(&mut self, until: DateTime<Utc>) -> Result<(), object_store::Error> {
        self.put_as(PutMode::Update(self.version.clone()), until).await
    }

    async fn put_as(&mut self, mode: PutMode, until: DateTime<Utc>) -> Result<(), object_store::Error> {
        let held = Held { holder: self.holder, until };
        let bytes = serde_json::to_vec(&held).expect("an id and a time have a JSON form");
        let options = PutOptions::from(mode);
        let PutResult { e_tag, version, .. } = self.store.put_opts(&self.path, bytes.into(), options).await?;
        self.version = UpdateVersion { e_tag, version };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    async fn taken(store: &Arc<InMemory>) -> Option<Lease> {
        let store: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(store);
        Lease::take(store, Path::from("t.lease")).await.expect("the store answers")
    }

    #[tokio::test]
    async fn one_leads_until_it_lets_go_or_its_time_is_over() {
        let store = Arc::new(InMemory::new());
        let mut lease = taken(&store).await.expect("nobody leads");
        assert!(taken(&store).await.is_none());
        lease.renew().await.expect("it leads");
        lease.put(DateTime::<Utc>::UNIX_EPOCH).await.expect("it lets go");
        let next = taken(&store).await.expect("nobody leads");
        let refused = lease.renew().await.expect_err("another leads");
        assert!(matches!(refused, object_store::Error::Precondition { .. }), "{refused}");
        store.put(&next.path, "torn".into()).await.expect("the store answers");
        assert!(taken(&store).await.is_some(), "a torn blob holds nobody off");
    }

    #[tokio::test]
    async fn what_was_put_without_an_answer_does_not_lose_the_lead() {
        let store = Arc::new(InMemory::new());
        let mut lease = taken(&store).await.expect("nobody leads");
        let (version, holder) = (lease.version.clone(), lease.holder);
        lease.renew().await.expect("it leads");
        let mut unaware = Lease { store: Arc::<InMemory>::clone(&store), path: lease.path.clone(), holder, version };
        unaware.renew().await.expect("it leads, whatever it knows of its last put");
        unaware.renew().await.expect("it leads");
    }
}
