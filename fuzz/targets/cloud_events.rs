//! Any body that claims to be a CloudEvent in structured mode, or a batch of them, with any properties.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sluicebox::decode::Decoder;
use sluicebox_fuzz::{cloud_events, each_event_ends_once, event, folder};

static DECODERS: LazyLock<Vec<Decoder>> = LazyLock::new(|| cloud_events(&folder()));

fuzz_target!(|given: (u8, Vec<(&str, &str)>, &[u8])| {
    let (format, properties, body) = given;
    let format = ["+json", "-batch+json", "+avro", "", "+xml"][usize::from(format) % 5];
    let mut event = event(0, None, body.to_vec());
    event.content_type = Some(format!("application/cloudevents{format}"));
    event.properties = properties.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for decoder in DECODERS.iter() {
        each_event_ends_once(decoder, vec![event.clone()]);
    }
});
