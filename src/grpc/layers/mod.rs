//! The tower layers around the services, one duty each.

mod admit;
mod deadline;
mod direct;
mod first_message;
mod held_body;
mod load_shed;
mod middleware;
mod observe;
mod receive;
mod unreadable;

pub(super) use self::{
    admit::Admit,
    deadline::Deadline,
    direct::Direct,
    load_shed::LoadShed,
    middleware::{Chain, MiddlewareLayer},
    observe::{Observe, method_names},
    receive::Receive,
    unreadable::{CorrectStatus, correct_status},
};
