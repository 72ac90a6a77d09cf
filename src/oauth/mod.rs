//! OAuth 2.0, for gateways and libraries that know it. It translates, and holds no rule.

mod introspection;

pub(crate) use self::introspection::introspect;
