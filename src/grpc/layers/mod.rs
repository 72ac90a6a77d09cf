//! The tower layers around the services, one duty each.

mod deadline;
mod load_shed;
mod observe;
mod unreadable;

pub(super) use self::{
    deadline::DeadlineLayer,
    load_shed::LoadShedLayer,
    observe::{ObserveLayer, method_names},
    unreadable::blame_the_request,
};
