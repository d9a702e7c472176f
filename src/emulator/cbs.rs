//! `$cbs`: claims-based security, by which a client shows its tokens.

use fe2o3_amqp_types::messaging::{AmqpValue, Body};
use serde_amqp::Value;

use super::connection::Connection;
use super::hub;
use super::messages::EventMessage;
use super::rpc::{Reply, property};

/// Answers `put-token`.
pub(super) fn answer(request: &EventMessage, connection: &Connection) -> Reply {
    if property(request, "operation") != Some("put-token") {
        return Reply::failed(400, "the only operation is `put-token`".to_owned());
    }
    let (Some(kind), Some(audience)) = (property(request, "type"), property(request, "name")) else {
        return Reply::failed(400, "a token needs `type` and `name`".to_owned());
    };
    let token = match &request.body {
        Body::Value(AmqpValue(Value::String(token))) => token.as_str(),
        Body::Value(AmqpValue(Value::Binary(token))) => std::str::from_utf8(token).unwrap_or_default(),
        _ => "",
    };
    match connection.shared.policies.check(kind, token, audience, hub::now() / 1000) {
        Ok(expiry) => {
            connection.grants.add(audience, expiry);
            Reply { status: 202, description: "Accepted".to_owned(), body: Value::Null }
        }
        Err(refused) => Reply::failed(401, format!("unauthorized access to `{audience}`: {refused}")),
    }
}
