//! The tower layers around the services, one duty each.

mod deadline;
mod direct;
mod load_shed;
mod middleware;
mod observe;
mod unreadable;

pub(super) use self::{
    deadline::Deadline,
    direct::Direct,
    load_shed::LoadShed,
    middleware::{Chain, MiddlewareLayer},
    observe::{Observe, method_names},
    unreadable::{CorrectStatus, correct_status},
};
