//! What a command prints.

/// What a command found out.
#[derive(Debug)]
pub struct Report {
    /// For standard output.
    pub text: String,
    /// Whether all is well; an invalid secret is not, nor a service that does not serve.
    pub good: bool,
}
