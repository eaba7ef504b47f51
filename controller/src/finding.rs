//! What is wrong with an object, in one line: file, line, object, field, message, fix.

use crate::object::{ObjectKey, Stored};
use serde::Serialize;
use std::{fmt, sync::Arc};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that was meant has no effect, or requests fail.
    Error,
    /// Probably not what was meant.
    Warning,
    /// Worth knowing.
    Info,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub file: Arc<str>,
    /// From 1; 0 when there is no file.
    pub line: u32,
    pub severity: Severity,
    /// Names the mistake, for tests and for looking it up in the documentation.
    pub code: &'static str,
    /// Such as `HTTPRoute shop/orders`; empty when the text is no object.
    pub object: String,
    /// Such as `spec.rules[0].backendRefs[1].name`.
    pub field: String,
    pub message: String,
    pub fix: String,
}

impl Finding {
    /// A finding about a field of an object.
    pub fn at(
        severity: Severity,
        code: &'static str,
        object: &Stored,
        field: &str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (file, line) = match &object.origin {
            Some(o) => (o.file.clone(), o.node.line_of(field)),
            None => ("".into(), 0),
        };
        let key: ObjectKey = object.object.key();
        let (object, field) = (key.to_string(), field.to_owned());
        Self { file, line, severity, code, object, field, message: message.into(), fix: fix.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        if !self.file.is_empty() {
            write!(f, "{}:{}: ", self.file, self.line)?;
        }
        write!(f, "{word}: ")?;
        for part in [&self.object, &self.field].into_iter().filter(|p| !p.is_empty()) {
            write!(f, "{part}: ")?;
        }
        write!(f, "{}", self.message)?;
        if !self.fix.is_empty() {
            write!(f, " ({})", self.fix)?;
        }
        Ok(())
    }
}
