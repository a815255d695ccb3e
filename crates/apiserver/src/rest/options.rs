//! `DeleteOptions`, from the body or the query.

use crate::call::Call;
use crate::http::status::Status;
use serde_json::Value;

/// What happens to the objects that the deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They lose their owner.
    Orphan,
    /// They are collected afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds to give it, if the client says.
    pub grace_seconds: Option<i64>,
    /// What happens to its dependents, if the client says.
    pub propagation: Option<Propagation>,
    /// It must have this uid.
    pub uid: Option<String>,
    /// It must have this resourceVersion.
    pub revision: Option<String>,
    /// Nothing is stored.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads them from a request; an empty body means the query.
    pub fn read(call: &Call, body: &[u8]) -> Result<Self, Status> {
        let mut options = Self {
            grace_seconds: call.query.number("gracePeriodSeconds")?,
            propagation: call.query.get("propagationPolicy").map(propagation).transpose()?,
            dry_run: call.dry_run()?,
            ..Self::default()
        };
        if call.query.flag("orphanDependents") {
            options.propagation = Some(Propagation::Orphan);
        }
        if !body.iter().all(u8::is_ascii_whitespace) {
            options.read_body(&call.decode(body)?.value)?;
        }
        if options.grace_seconds.is_some_and(|s| s < 0) {
            options.grace_seconds = Some(1);
        }
        Ok(options)
    }

    /// Reads them from a `DeleteOptions` object.
    pub fn read_body(&mut self, value: &Value) -> Result<(), Status> {
        if value["kind"].as_str().is_some_and(|kind| kind != "DeleteOptions") {
            return Err(Status::bad_request(
                "the body of a deletion must be DeleteOptions",
            ));
        }
        if let Some(seconds) = value["gracePeriodSeconds"].as_i64() {
            self.grace_seconds = Some(seconds);
        }
        match value["orphanDependents"].as_bool() {
            Some(true) => self.propagation = Some(Propagation::Orphan),
            Some(false) => self.propagation = Some(Propagation::Background),
            None => {}
        }
        if let Some(policy) = value["propagationPolicy"].as_str() {
            self.propagation = Some(propagation(policy)?);
        }
        let preconditions = &value["preconditions"];
        self.uid = preconditions["uid"].as_str().map(str::to_owned);
        self.revision = preconditions["resourceVersion"].as_str().map(str::to_owned);
        self.dry_run |= value["dryRun"].as_array().is_some_and(|all| !all.is_empty());
        Ok(())
    }
}

fn propagation(text: &str) -> Result<Propagation, Status> {
    match text {
        "Orphan" => Ok(Propagation::Orphan),
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        other => Err(Status::bad_request(format!(
            "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \
             \"Orphan\""
        ))),
    }
}
