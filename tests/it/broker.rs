//! The emulator's broker, as the official Rust client sees it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use azure_core::time::Duration as AzureDuration;
use azure_messaging_eventhubs::error::ErrorKind;
use azure_messaging_eventhubs::models::{AmqpSimpleValue, EventData, ReceivedEventData};
use azure_messaging_eventhubs::{
    ConsumerClient, EventDataBatchOptions, EventReceiver, OpenReceiverOptions, ProducerClient, RetryOptions,
    SendEventOptions, StartLocation, StartPosition,
};
use bytes::Bytes;
use futures::StreamExt;
use sluicebox::emulator::{
    Broker, BrokerError, BrokerOptions, Fault, FaultAction, HubSpec, MAX_MESSAGE_BYTES, Retention, StoredMessageInput,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const HUB: &str = "leads";
/// Longer than anything here takes; what exceeds it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it hangs")
}

async fn broker_with(change: impl FnOnce(&mut BrokerOptions)) -> Broker {
    // The client makes a TLS configuration even where it speaks plaintext. Another test of
    // this process may have installed the provider before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut options = BrokerOptions { hubs: vec![HubSpec::new(HUB, 4)], ..BrokerOptions::default() };
    change(&mut options);
    Broker::start(options).await.expect("a broker")
}

async fn broker() -> Broker {
    broker_with(|_| ()).await
}

fn connection_string(key: &str) -> String {
    format!("Endpoint=sb://emulator.local/;SharedAccessKeyName=tests;SharedAccessKey={key}")
}

fn no_retries() -> RetryOptions {
    RetryOptions { max_retries: 0, max_total_elapsed: AzureDuration::seconds(10), ..RetryOptions::default() }
}

async fn open_consumer(
    broker: &Broker,
    hub: &str,
    group: &str,
    key: &str,
) -> azure_messaging_eventhubs::Result<ConsumerClient> {
    ConsumerClient::builder()
        .with_custom_endpoint(format!("amqp://{}", broker.address()))
        .with_consumer_group(group.to_owned())
        .with_retry_options(no_retries())
        .open_with_connection_string(&connection_string(key), Some(hub))
        .await
}

async fn consumer(broker: &Broker) -> ConsumerClient {
    within(open_consumer(broker, HUB, "$Default", "any")).await.expect("a consumer")
}

async fn producer(broker: &Broker) -> ProducerClient {
    let opening = ProducerClient::builder()
        .with_custom_endpoint(format!("amqp://{}", broker.address()))
        .with_retry_options(no_retries())
        .open_with_connection_string(&connection_string("any"), Some(HUB))
        .await;
    opening.expect("a producer")
}

fn at(location: StartLocation, inclusive: bool) -> OpenReceiverOptions {
    OpenReceiverOptions {
        start_position: Some(StartPosition { location, inclusive }),
        ..OpenReceiverOptions::default()
    }
}

fn earliest() -> OpenReceiverOptions {
    at(StartLocation::Earliest, false)
}

async fn receiver(client: &ConsumerClient, partition: &str, options: OpenReceiverOptions) -> EventReceiver {
    within(client.open_receiver_on_partition(partition.to_owned(), Some(options))).await.expect("a receiver")
}

async fn take(receiver: &EventReceiver, count: usize) -> Vec<ReceivedEventData> {
    let events: Vec<_> = within(receiver.stream_events().take(count).collect()).await;
    events.into_iter().collect::<Result<_, _>>().expect("events")
}

fn numbers(events: &[ReceivedEventData]) -> Vec<i64> {
    events.iter().map(|event| event.sequence_number().expect("a number")).collect()
}

fn bodies(count: usize) -> Vec<StoredMessageInput> {
    (0..count).map(|index| StoredMessageInput { body: format!("event {index}").into(), ..Default::default() }).collect()
}

/// Everything up to the first error, which the stream ends with.
async fn until_error(receiver: &EventReceiver) -> (Vec<i64>, String) {
    let mut stream = std::pin::pin!(receiver.stream_events());
    let mut numbers = Vec::new();
    loop {
        match within(stream.next()).await.expect("an error before the end") {
            Ok(event) => numbers.push(event.sequence_number().expect("a number")),
            Err(error) => return (numbers, format!("{error:?}")),
        }
    }
}

fn fault(action: FaultAction, after_events: u64) -> Fault {
    Fault { action, hub: Some(HUB.to_owned()), partition: Some("0".to_owned()), after_events, times: 1 }
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_tell_hub_and_partitions() {
    let broker = broker().await;
    broker.append(HUB, "1", bodies(5)).expect("appended");
    let client = consumer(&broker).await;
    let hub = within(client.get_eventhub_properties()).await.expect("properties");
    assert_eq!((hub.name.as_str(), hub.partition_ids.len()), (HUB, 4));
    assert!(hub.created_on.is_some());
    let empty = within(client.get_partition_properties("0")).await.expect("properties");
    assert!(empty.is_empty);
    assert_eq!((empty.beginning_sequence_number, empty.last_enqueued_sequence_number), (0, -1));
    let filled = within(client.get_partition_properties("1")).await.expect("properties");
    assert!(!filled.is_empty);
    assert_eq!((filled.beginning_sequence_number, filled.last_enqueued_sequence_number), (0, 4));
    let offset: i64 = filled.last_enqueued_offset.parse().expect("a decimal offset");
    assert!(offset > 4, "an offset of {offset} could be taken for a sequence number");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_arrives_in_its_partition_byte_by_byte() {
    let broker = broker().await;
    let producer = producer(&broker).await;
    let options = EventDataBatchOptions { partition_id: Some("2".to_owned()), ..Default::default() };
    let batch = within(producer.create_batch(Some(options))).await.expect("a batch");
    let bodies: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte; usize::from(byte)]).collect();
    for body in &bodies {
        let event = EventData::builder()
            .with_body(body.clone())
            .with_content_type("avro/binary+0123".to_owned())
            .with_message_id(body.len() as u64)
            .add_property("type".to_owned(), "lead.generated")
            .add_property("count".to_owned(), 7_i64)
            .build();
        assert!(batch.try_add_event_data(event, None).expect("an event"));
    }
    within(producer.send_batch(batch, None)).await.expect("sent");
    let client = consumer(&broker).await;
    let events = take(&receiver(&client, "2", earliest()).await, bodies.len()).await;
    assert_eq!(numbers(&events), (0..256).collect::<Vec<_>>());
    let mut last_offset = -1;
    for (event, body) in events.iter().zip(&bodies) {
        let data = event.event_data();
        assert_eq!(data.body().unwrap_or_default(), body);
        assert_eq!(data.content_type(), Some("avro/binary+0123"));
        let properties = data.properties().expect("properties");
        assert_eq!(properties["type"], AmqpSimpleValue::from("lead.generated"));
        assert_eq!(properties["count"], AmqpSimpleValue::from(7_i64));
        let offset: i64 = event.offset().as_deref().and_then(|offset| offset.parse().ok()).expect("an offset");
        assert!(offset > last_offset);
        last_offset = offset;
        assert!(event.enqueued_time().expect("a time").elapsed().expect("the past") < Duration::from_secs(60));
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_key_keeps_events_together_and_is_told() {
    let broker = broker().await;
    let producer = producer(&broker).await;
    for _ in 0..5 {
        let options = EventDataBatchOptions { partition_key: Some("customer-7".to_owned()), ..Default::default() };
        let batch = within(producer.create_batch(Some(options))).await.expect("a batch");
        assert!(batch.try_add_event_data("one", None).expect("an event"));
        within(producer.send_batch(batch, None)).await.expect("sent");
    }
    let infos: Vec<_> = (0..4).map(|id| broker.partition(HUB, &id.to_string()).expect("a partition")).collect();
    let holder = infos.iter().find(|info| info.events == 5).expect("one partition holds all");
    let client = consumer(&broker).await;
    let events = take(&receiver(&client, &holder.partition, earliest()).await, 5).await;
    assert!(events.iter().all(|event| event.partition_key().as_deref() == Some("customer-7")));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_events_go_to_each_partition_in_turn() {
    let broker = broker().await;
    let producer = producer(&broker).await;
    for index in 0..8 {
        within(producer.send_event(format!("event {index}"), None)).await.expect("sent");
    }
    let to = SendEventOptions { partition_id: Some("3".to_owned()) };
    within(producer.send_event("one more", Some(to))).await.expect("sent");
    let counts: Vec<_> = (0..4).map(|id| broker.partition(HUB, &id.to_string()).expect("a partition").events).collect();
    assert_eq!(counts, [2, 2, 2, 3]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_start_begins_where_it_says() {
    let broker = broker().await;
    broker.append(HUB, "0", bodies(5)).expect("appended");
    let middle = loop {
        let last = broker.partition(HUB, "0").expect("a partition").last_enqueued_at;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
        if now > last {
            break now;
        }
    };
    broker.append(HUB, "0", bodies(5)).expect("appended");
    let client = consumer(&broker).await;
    let offset = take(&receiver(&client, "0", earliest()).await, 8).await[7].offset().clone().expect("an offset");
    let time = UNIX_EPOCH + Duration::from_millis(middle as u64);
    for (location, inclusive, first) in [
        (StartLocation::Earliest, false, 0),
        (StartLocation::SequenceNumber(5), false, 6),
        (StartLocation::SequenceNumber(5), true, 5),
        (StartLocation::Offset(offset.clone()), false, 8),
        (StartLocation::Offset(offset), true, 7),
        (StartLocation::EnqueuedTime(time), true, 5),
    ] {
        let client = consumer(&broker).await;
        let receiver = receiver(&client, "0", at(location.clone(), inclusive)).await;
        let events = take(&receiver, 10 - first as usize).await;
        assert_eq!(numbers(&events), (first..10).collect::<Vec<_>>(), "{location:?}, inclusive: {inclusive}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_sees_only_what_comes_later() {
    let broker = broker().await;
    broker.append(HUB, "0", bodies(5)).expect("appended");
    let client = consumer(&broker).await;
    let receiver = receiver(&client, "0", at(StartLocation::Latest, false)).await;
    let mut stream = std::pin::pin!(receiver.stream_events());
    assert!(futures::poll!(stream.next()).is_pending());
    while broker.partition(HUB, "0").expect("a partition").receivers == 0 {
        assert!(futures::poll!(stream.next()).is_pending());
        tokio::task::yield_now().await;
    }
    broker.append(HUB, "0", bodies(1)).expect("appended");
    let event = within(stream.next()).await.expect("an event").expect("an event");
    assert_eq!(event.sequence_number(), Some(5));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unknown_is_refused_by_name() {
    let group = || HubSpec { name: HUB.to_owned(), partitions: 4, consumer_groups: vec!["lakehouse".to_owned()] };
    let broker = broker_with(|options| options.hubs = vec![group()]).await;
    for (hub, group, partition, named) in
        [("orders", "$Default", "0", "`orders`"), (HUB, "nobody", "0", "`nobody`"), (HUB, "$Default", "17", "`17`")]
    {
        let client = within(open_consumer(&broker, hub, group, "any")).await.expect("a consumer");
        let receiver = within(client.open_receiver_on_partition(partition.to_owned(), Some(earliest()))).await;
        let error = match receiver {
            Err(error) => format!("{error:?}"),
            Ok(receiver) => until_error(&receiver).await.1,
        };
        assert!(error.contains("not-found") || error.contains("NotFound"), "{error}");
        assert!(error.contains(named), "{error}");
    }
    let client = within(open_consumer(&broker, HUB, "LAKEHOUSE", "any")).await.expect("a consumer");
    broker.append(HUB, "0", bodies(1)).expect("appended");
    take(&receiver(&client, "0", earliest()).await, 1).await;
    let unknown = within(open_consumer(&broker, "orders", "$Default", "any")).await.expect("a consumer");
    let error = within(unknown.get_eventhub_properties()).await.expect_err("no such hub");
    assert!(format!("{error:?}").contains("orders"), "{error:?}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_higher_epoch_takes_the_partition_over() {
    let broker = broker().await;
    broker.append(HUB, "0", bodies(3)).expect("appended");
    let owner = |level| OpenReceiverOptions { owner_level: Some(level), ..earliest() };
    let (first, second, third) = (consumer(&broker).await, consumer(&broker).await, consumer(&broker).await);
    let displaced = receiver(&first, "0", owner(1)).await;
    let mut stream = std::pin::pin!(displaced.stream_events());
    for _ in 0..3 {
        within(stream.next()).await.expect("an event").expect("an event");
    }
    let winner = receiver(&second, "0", owner(2)).await;
    assert_eq!(take(&winner, 3).await.len(), 3);
    let error = within(stream.next()).await.expect("an error").expect_err("the link was stolen");
    assert!(matches!(error.kind, ErrorKind::ConsumerDisconnected(_)), "{error:?}");
    for options in [owner(1), earliest()] {
        let refused = within(third.open_receiver_on_partition("0".to_owned(), Some(options))).await;
        let error = match refused {
            Err(error) => format!("{error:?}"),
            Ok(receiver) => until_error(&receiver).await.1,
        };
        assert!(error.contains("epoch"), "{error}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_strikes_after_the_events_it_counts() {
    for action in [
        FaultAction::Detach,
        FaultAction::Close,
        FaultAction::Steal,
        FaultAction::ServerBusy,
        FaultAction::DropConnection,
    ] {
        let broker = broker().await;
        broker.append(HUB, "0", bodies(1000)).expect("appended");
        broker.inject(fault(action, 500));
        assert_eq!(broker.faults().len(), 1);
        let client = consumer(&broker).await;
        let receiver = receiver(&client, "0", earliest()).await;
        let mut stream = std::pin::pin!(receiver.stream_events());
        let mut seen = Vec::new();
        // Some errors the client mends by itself, from its first start on; others end it.
        while let Ok(event) = within(stream.next()).await.expect("a stream") {
            seen.push(event.sequence_number().expect("a number"));
            if seen.len() == 600 {
                break;
            }
        }
        assert!(seen.len() <= 500 || seen[500] != 500, "{action:?} didn't strike after 500 events");
        assert_eq!(broker.faults(), [], "{action:?}");
        // A new client goes on as if nothing had been.
        let fresh = consumer(&broker).await;
        let events = take(&self::receiver(&fresh, "0", earliest()).await, 1000).await;
        assert_eq!(numbers(&events), (0..1000).collect::<Vec<_>>(), "{action:?}");
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_holds_an_event_back_and_loses_none() {
    let broker = broker().await;
    broker.append(HUB, "0", bodies(10)).expect("appended");
    broker.inject(fault(FaultAction::Delay(Duration::from_millis(200)), 5));
    let client = consumer(&broker).await;
    let started = std::time::Instant::now();
    let events = take(&receiver(&client, "0", earliest()).await, 10).await;
    assert_eq!(numbers(&events), (0..10).collect::<Vec<_>>());
    assert!(started.elapsed() >= Duration::from_millis(200));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_takes_the_oldest_and_a_start_before_it_begins_after() {
    let broker = broker_with(|options| options.retention = Retention { max_events: Some(10), max_age: None }).await;
    broker.append(HUB, "0", bodies(25)).expect("appended");
    let info = broker.partition(HUB, "0").expect("a partition");
    assert_eq!((info.begin_sequence_number, info.last_sequence_number, info.events), (15, 24, 10));
    let client = consumer(&broker).await;
    let events = take(&receiver(&client, "0", at(StartLocation::SequenceNumber(3), true)).await, 10).await;
    assert_eq!(numbers(&events), (15..25).collect::<Vec<_>>());
    broker.expire_before(HUB, "0", 20).expect("expired");
    assert_eq!(broker.partition(HUB, "0").expect("a partition").begin_sequence_number, 20);
    broker.set_retention(Retention { max_events: Some(1), max_age: None });
    assert_eq!(broker.partition(HUB, "0").expect("a partition").begin_sequence_number, 24);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_memory_refuses_producers_or_lets_the_oldest_go() {
    let body = || StoredMessageInput { body: Bytes::from(vec![7; 10_000]), ..Default::default() };
    let full = broker_with(|options| options.max_bytes = 100_000).await;
    let mut appended = 0;
    let error = loop {
        match full.append(HUB, "0", vec![body()]) {
            Ok(numbers) => appended += numbers.len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BrokerError::Full { .. }), "{error:?}");
    assert_eq!(appended, 9);
    let client = producer(&full).await;
    let error = within(client.send_event(vec![7_u8; 10_000], None)).await.expect_err("no memory");
    assert!(format!("{error:?}").contains("ServerBusy"), "{error:?}");
    full.stop().await;
    let evicting = broker_with(|options| {
        options.max_bytes = 100_000;
        options.retention.max_age = Some(Duration::from_secs(3600));
    })
    .await;
    for _ in 0..30 {
        evicting.append(HUB, "0", vec![body()]).expect("appended");
    }
    let info = evicting.partition(HUB, "0").expect("a partition");
    assert_eq!((info.begin_sequence_number, info.last_sequence_number), (21, 29));
    assert!(info.bytes <= 100_000);
    evicting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_go_on_after_a_restart_with_a_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let start = || broker_with(|options| options.dir = Some(dir.path().to_owned()));
    let created_on = async |broker: &Broker| {
        let client = consumer(broker).await;
        within(client.get_eventhub_properties()).await.expect("properties").created_on
    };
    let first = start().await;
    let producer = producer(&first).await;
    for index in 0..3 {
        let to = SendEventOptions { partition_id: Some("0".to_owned()) };
        within(producer.send_event(format!("event {index}"), Some(to))).await.expect("sent");
    }
    let created = created_on(&first).await;
    first.stop().await;
    drop(first);
    let second = start().await;
    assert_eq!(created_on(&second).await, created);
    assert_eq!(second.append(HUB, "0", bodies(2)).expect("appended"), [3, 4]);
    let client = consumer(&second).await;
    let events = take(&receiver(&client, "0", earliest()).await, 5).await;
    assert_eq!(numbers(&events), [0, 1, 2, 3, 4]);
    assert_eq!(events[2].event_data().body(), Some(&b"event 2"[..]));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_made_anew_has_another_birth_and_no_past() {
    let dir = tempfile::tempdir().expect("a folder");
    let broker = broker_with(|options| options.dir = Some(dir.path().to_owned())).await;
    broker.append(HUB, "0", bodies(5)).expect("appended");
    let client = consumer(&broker).await;
    let before = within(client.get_eventhub_properties()).await.expect("properties").created_on;
    let reading = receiver(&client, "0", earliest()).await;
    let mut stream = std::pin::pin!(reading.stream_events());
    for _ in 0..5 {
        within(stream.next()).await.expect("an event").expect("an event");
    }
    broker.remake_hub(HUB).expect("made anew");
    assert_eq!(broker.append(HUB, "0", bodies(1)).expect("appended"), [0]);
    // Detached; the client attaches again by itself, or ends.
    if let Ok(event) = within(stream.next()).await.expect("a stream") {
        assert_eq!(event.sequence_number(), Some(0));
    }
    let after = within(client.get_eventhub_properties()).await.expect("properties").created_on;
    assert_ne!(before, after);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_and_the_next_one_is_not() {
    let broker = broker().await;
    let client = producer(&broker).await;
    let batch = within(client.create_batch(None)).await.expect("a batch");
    let too_large = vec![1_u8; MAX_MESSAGE_BYTES as usize];
    assert!(!batch.try_add_event_data(too_large.clone(), None).unwrap_or(false));
    let error = within(client.send_event(too_large, None)).await.expect_err("too large");
    assert!(format!("{error:?}").contains("PayloadSizeExceeded"), "{error:?}");
    within(client.send_event(vec![1_u8; 900_000], None)).await.expect("sent");
    let total: u64 = (0..4).map(|id| broker.partition(HUB, &id.to_string()).expect("a partition").events).sum();
    assert_eq!(total, 1);
    let too_large = StoredMessageInput { body: vec![0; 2 << 20].into(), ..Default::default() };
    assert!(matches!(broker.append(HUB, "0", vec![too_large]), Err(BrokerError::TooLarge { .. })));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_key_opens_a_hub_with_keys() {
    let broker = broker_with(|options| options.keys = vec![("tests".to_owned(), "right".to_owned())]).await;
    broker.append(HUB, "0", bodies(2)).expect("appended");
    let client = within(open_consumer(&broker, HUB, "$Default", "right")).await.expect("a consumer");
    within(client.get_eventhub_properties()).await.expect("properties");
    assert_eq!(take(&receiver(&client, "0", earliest()).await, 2).await.len(), 2);
    let wrong = within(open_consumer(&broker, HUB, "$Default", "wrong")).await.expect("a consumer");
    let error = match within(wrong.open_receiver_on_partition("0".to_owned(), Some(earliest()))).await {
        Err(error) => format!("{error:?}"),
        Ok(receiver) => until_error(&receiver).await.1,
    };
    assert!(error.contains("401") || error.contains("nauthorized"), "{error}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_backlog_arrives_whole_and_in_order_from_every_partition() {
    let broker = broker().await;
    let count = 5_000;
    for id in 0..4 {
        let events = (0..count).map(|_| StoredMessageInput { body: vec![id; 1024].into(), ..Default::default() });
        broker.append(HUB, &id.to_string(), events.collect()).expect("appended");
    }
    let client = Arc::new(consumer(&broker).await);
    let readers = (0..4).map(|id: i32| {
        let client = Arc::clone(&client);
        async move { numbers(&take(&receiver(&client, &id.to_string(), earliest()).await, count).await) }
    });
    for seen in futures::future::join_all(readers).await {
        assert_eq!(seen, (0..count as i64).collect::<Vec<_>>());
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_amqp_is_spoken_inside_it_and_nowhere_else() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let server = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.clone()], key);
    let broker = broker_with(|options| options.tls = Some(Arc::new(server.expect("a configuration")))).await;
    let mut trusted = rustls::RootCertStore::empty();
    trusted.add(certificate).expect("a certificate");
    let client = rustls::ClientConfig::builder().with_root_certificates(trusted).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let header = *b"AMQP\x03\x01\x00\x00";
    let mut answer = [0; 8];
    let tcp = within(TcpStream::connect(broker.address())).await.expect("a connection");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let mut stream = within(connector.connect(name, tcp)).await.expect("TLS");
    stream.write_all(&header).await.expect("written");
    within(stream.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(answer, header);
    let mut plain = within(TcpStream::connect(broker.address())).await.expect("a connection");
    plain.write_all(&header).await.expect("written");
    assert!(within(plain.read_exact(&mut answer)).await.is_err() || answer != header);
    broker.stop().await;
}
