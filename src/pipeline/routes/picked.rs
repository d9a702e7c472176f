//! Rows that are some table's and still lie among those of others.
//!
//! ```text
//! a batch of many tables ─▶ picked: the batch, held once, and for each table the places of its rows
//!                              └──(enough of them, or a flush)──▶ gathered: rows of one's own, many batches in one go
//! ```
//!
//! A batch of a thousand events for fifty tables would be fifty of twenty rows, each of some fifty arrays: making,
//! encoding and dropping these costs more than decoding does. So a table with a few rows of a batch remembers where they are.
//!
//! The batch stays in memory as a whole until the last table has taken its rows out. What it holds of the budget goes with
//! the rows, each table's share with the table's. [`Pool`] tells how much is left: when it is a good part, all tables take
//! theirs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::array::{AsArray as _, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::error::ArrowError;

use crate::batch::bronze;
use crate::memory::Reservation;

/// Rows of a batch that are worth arrays of their own. More would hold batches for little, fewer would make small ones.
pub(super) const ROWS_WORTH_TAKING: usize = 512;

/// What the batches hold that rows are picked of, in bytes.
#[derive(Debug, Clone, Default)]
pub struct Pool(Arc<AtomicUsize>);

impl Pool {
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A batch of which several tables have rows.
#[derive(Debug)]
pub struct SharedRows {
    batch: RecordBatch,
    bytes: usize,
    held: OnceLock<Held>,
}

#[derive(Debug)]
struct Held {
    reservation: Mutex<Reservation>,
    pool: Pool,
}

impl Held {
    /// So many bytes of it, or what is left.
    fn take(&self, bytes: usize) -> Reservation {
        let share = self.reservation.lock().unwrap_or_else(PoisonError::into_inner).split(bytes);
        self.pool.0.fetch_sub(share.bytes(), Ordering::Relaxed);
        share
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.take(usize::MAX));
    }
}

impl SharedRows {
    pub(super) fn new(batch: RecordBatch) -> Self {
        let bytes = batch.get_array_memory_size();
        Self { batch, bytes, held: OnceLock::new() }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it holds of the budget from now on, for the tables that take its rows.
    pub fn hold(&self, reservation: Reservation, pool: &Pool) {
        pool.0.fetch_add(reservation.bytes(), Ordering::Relaxed);
        // It is held once: whoever made it does so before it hands it on.
        let _ = self.held.set(Held { reservation: Mutex::new(reservation), pool: pool.clone() });
    }
}

/// One table's rows of a batch.
#[derive(Debug, Clone)]
pub struct Picked {
    rows: Arc<SharedRows>,
    /// Ascending.
    at: Vec<u32>,
}

impl Picked {
    pub(super) fn new(rows: &Arc<SharedRows>, at: Vec<u32>) -> Self {
        Self { rows: Arc::clone(rows), at }
    }

    /// Its share of what the batch holds.
    pub fn bytes(&self) -> usize {
        let share = self.rows.bytes as u64 * self.at.len() as u64 / self.rows.batch.num_rows().max(1) as u64;
        usize::try_from(share).unwrap_or(usize::MAX)
    }

    /// Its share, for who takes the rows: nobody but him counts them from then on.
    pub fn take_share(&self) -> Option<Reservation> {
        self.rows.held.get().map(|held| held.take(self.bytes()))
    }
}

/// Rows that go into one batch: those of a piece, or some of them.
struct Piece<'a> {
    batch: &'a RecordBatch,
    at: Option<&'a [u32]>,
}

impl Piece<'_> {
    fn len(&self) -> usize {
        self.at.map_or(self.batch.num_rows(), <[u32]>::len)
    }

    fn first_number(&self) -> Option<i64> {
        let first = self.at.map_or(Some(0), |at| at.first().map(|row| *row as usize))?;
        let numbers = self.batch.column_by_name(bronze::SEQUENCE_NUMBER)?.as_primitive_opt::<Int64Type>()?;
        numbers.values().get(first).copied()
    }
}

/// All rows as batches of their own, those of one schema together, unless they are many anyway. CPU work.
///
/// # Errors
/// Only for a defect of ours.
pub fn gathered(batches: Vec<RecordBatch>, picked: &[Picked]) -> Result<Vec<RecordBatch>, ArrowError> {
    let is_small = |batch: &RecordBatch| batch.num_rows() < ROWS_WORTH_TAKING;
    if picked.is_empty() && batches.iter().filter(|batch| is_small(batch)).count() < 2 {
        return Ok(batches);
    }
    let (small, mut all): (Vec<_>, Vec<_>) = batches.into_iter().partition(is_small);
    let whole = small.iter().map(|batch| Piece { batch, at: None });
    let some = picked.iter().map(|picked| Piece { batch: &picked.rows.batch, at: Some(&picked.at) });
    let mut of_schema: Vec<(SchemaRef, Vec<Piece<'_>>)> = Vec::new();
    for piece in whole.chain(some) {
        let schema = piece.batch.schema_ref();
        match of_schema.iter_mut().find(|(held, _)| Arc::ptr_eq(held, schema) || held == schema) {
            Some((_, pieces)) => pieces.push(piece),
            None => of_schema.push((Arc::clone(schema), vec![piece])),
        }
    }
    for (_, mut pieces) in of_schema {
        pieces.sort_by_key(Piece::first_number);
        let mut places = Vec::with_capacity(pieces.iter().map(Piece::len).sum());
        for (piece, from) in pieces.iter().enumerate() {
            match from.at {
                Some(at) => places.extend(at.iter().map(|row| (piece, *row as usize))),
                None => places.extend((0..from.batch.num_rows()).map(|row| (piece, row))),
            }
        }
        let batches: Vec<&RecordBatch> = pieces.iter().map(|piece| piece.batch).collect();
        all.push(interleave_record_batch(&batches, &places)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;
    use crate::memory::MemoryBudget;

    fn batch(other: &str, numbers: &[i64]) -> RecordBatch {
        let texts: StringArray = numbers.iter().map(|number| Some(number.to_string())).collect();
        let columns: [(&str, ArrayRef); 2] =
            [(bronze::SEQUENCE_NUMBER, Arc::new(Int64Array::from(numbers.to_vec()))), (other, Arc::new(texts))];
        RecordBatch::try_from_iter(columns).expect("a batch")
    }

    fn rows(batch: &RecordBatch) -> Vec<(i64, String)> {
        let numbers = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
        let texts = batch.column(1).as_string::<i32>().iter().flatten().map(str::to_owned);
        numbers.into_iter().zip(texts).collect()
    }

    #[test]
    fn rows_of_one_schema_are_gathered_in_the_order_of_their_numbers() {
        let budget = MemoryBudget::new(10_000_000);
        let pool = Pool::default();
        let shared = |batch: RecordBatch| {
            let shared = Arc::new(SharedRows::new(batch));
            shared.hold(budget.try_reserve(shared.bytes()).expect("it is free"), &pool);
            shared
        };
        let (late, early, other) =
            (shared(batch("a", &[7, 8, 9])), shared(batch("a", &[1, 2, 3])), shared(batch("b", &[4, 5])));
        assert_eq!(pool.bytes(), budget.in_use());
        let picked = [
            Picked::new(&late, vec![0, 2]),
            Picked::new(&other, vec![1]),
            Picked::new(&early, vec![1]),
            Picked::new(&early, vec![2]),
        ];
        let large: Vec<i64> = (100..100 + ROWS_WORTH_TAKING as i64).collect();
        let whole = vec![batch("a", &[4, 5]), batch("a", &large)];
        let all = gathered(whole, &picked).expect("rows");
        let found: Vec<Vec<i64>> =
            all.iter().map(|batch| rows(batch).into_iter().map(|(number, _)| number).collect()).collect();
        assert_eq!(found, [large, vec![2, 3, 4, 5, 7, 9], vec![5]], "many rows stay as they are");
        assert!(all.iter().flat_map(rows).all(|(number, text)| number.to_string() == text), "rows go as a whole");

        drop((late, early, other));
        let before = pool.bytes();
        assert!(before > 0, "they are held by who has picked of them");
        let share = picked[0].take_share().expect("it is held");
        assert!(share.bytes() > 0 && share.bytes() == picked[0].bytes());
        assert_eq!((pool.bytes(), budget.in_use()), (before - share.bytes(), before), "a share goes with its rows");
        drop(picked);
        assert_eq!((pool.bytes(), budget.in_use()), (0, share.bytes()));
    }
}
