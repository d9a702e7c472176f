//! Any body that is taken for a datum of a known schema.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sluicebox::decode::Decoder;
use sluicebox_fuzz::{datums, each_event_ends_once, event, folder};

static DECODERS: LazyLock<Vec<Decoder>> = LazyLock::new(|| datums(&folder()));

fuzz_target!(|body: &[u8]| {
    for decoder in DECODERS.iter() {
        each_event_ends_once(decoder, vec![event(0, None, body.to_vec())]);
    }
});
