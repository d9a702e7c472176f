//! Any body with any content type, in the AMQP field or as a property, told by each framing.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sluicebox::decode::Decoder;
use sluicebox_fuzz::{each_event_ends_once, event, folder, framings};

static DECODERS: LazyLock<Vec<Decoder>> = LazyLock::new(|| framings(&folder()));

fuzz_target!(|given: (Option<&str>, Option<&str>, &[u8])| {
    let (in_amqp, in_property, body) = given;
    let mut event = event(0, None, body.to_vec());
    event.content_type = in_amqp.map(str::to_owned);
    event.properties.extend(in_property.map(|text| ("content-type".to_owned(), text.to_owned())));
    for decoder in DECODERS.iter() {
        each_event_ends_once(decoder, vec![event.clone()]);
    }
});
