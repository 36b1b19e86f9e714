//! Owns the calling side of a service: a connection to a member that becomes the service's. What is said on it is not known here.

use std::sync::Arc;

use landfall_core::wire::{Message, Open};
use landfall_net::{Connection, Transport};

use crate::fetch::greet::{SourceError, connect, hear_hello, refused};
use crate::source::own_hello;

/// Connects to the member at `address` and opens its service `name`: whatever is sent from here on, that service hears.
///
/// The connection's deadlines are short; who keeps it sets its own.
///
/// # Errors
/// [`SourceError::Refused`] if the member has no such service.
pub fn open_service(transport: &Arc<dyn Transport>, address: &str, name: &str) -> Result<Connection, SourceError> {
    let mut connection = connect(transport, address)?;
    // Both messages in one flight: opening costs one round trip.
    connection.sender.send(&Message::Hello(own_hello()).encode(), &[])?;
    connection.sender.send(&Message::Open(Open { service: name.to_owned() }).encode(), &[])?;
    connection.sender.flush()?;
    hear_hello(&mut connection)?;
    let frame = connection.receiver.receive()?.ok_or(SourceError::Silent)?;
    match Message::decode(frame)? {
        Message::Opened => Ok(connection),
        Message::Refusal(refusal) => Err(refused(refusal)),
        _ => Err(SourceError::Protocol("it answers an opening with something else")),
    }
}
