//! Any body that is taken for an Avro container.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sluicebox::decode::Decoder;
use sluicebox_fuzz::{containers, each_event_ends_once, event};

static DECODER: LazyLock<Decoder> = LazyLock::new(containers);

fuzz_target!(|body: &[u8]| {
    each_event_ends_once(&DECODER, vec![event(0, None, body.to_vec())]);
});
