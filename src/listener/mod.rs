//! Accepts connections for the transports. It knows no protocol.

mod accept;

pub(crate) use self::accept::serve;
