//! The tower layers around the services, one duty each.

mod deadline;
mod load_shed;
mod middleware;
mod observe;
mod unreadable;

pub(super) use self::{
    deadline::Deadline,
    load_shed::LoadShed,
    middleware::MiddlewareLayer,
    observe::{Observe, method_names},
    unreadable::correct_status,
};
