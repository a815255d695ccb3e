//! What the client accepts: which encoding, and whether the object, a table, or only its metadata.

use super::status::Status;

/// What is sent of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All of it.
    Full,
    /// A row of a table; `meta.k8s.io/` this version.
    Table(&'static str),
    /// Its metadata; `meta.k8s.io/` this version.
    Metadata(&'static str),
}

/// How it is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
}

/// The answer's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// What is sent.
    pub shape: Shape,
    /// How it is encoded.
    pub encoding: Encoding,
}

const ACCEPTED: &str = "application/json, application/yaml";

impl Accept {
    /// Plain JSON.
    pub const JSON: Self = Self {
        shape: Shape::Full,
        encoding: Encoding::Json,
    };

    /// Chooses the first alternative of an `Accept` header that can be served.
    pub fn negotiate(header: Option<&str>) -> Result<Self, Status> {
        let Some(header) = header.filter(|h| !h.trim().is_empty()) else {
            return Ok(Self::JSON);
        };
        header
            .split(',')
            .find_map(alternative)
            .ok_or_else(|| Status::not_acceptable(ACCEPTED))
    }

    /// The answer's content type.
    pub fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }
}

fn alternative(text: &str) -> Option<Accept> {
    let mut parts = text.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "*/*" | "application/*" | "text/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", v)) => kind = v,
            Some(("g", v)) => group = v,
            Some(("v", v)) => version = v,
            _ => {}
        }
    }
    let version = match version {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        _ => "",
    };
    let known = group == "meta.k8s.io" && !version.is_empty();
    let shape = match kind {
        "" => Shape::Full,
        "Table" if known => Shape::Table(version),
        "PartialObjectMetadata" | "PartialObjectMetadataList" if known => Shape::Metadata(version),
        _ => return None,
    };
    Some(Accept { shape, encoding })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_that_can_be_served() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(
            Accept::negotiate(Some(kubectl)).expect("ok").shape,
            Shape::Table("v1")
        );
        let go = "application/vnd.kubernetes.protobuf, */*";
        assert_eq!(Accept::negotiate(Some(go)).expect("ok"), Accept::JSON);
        assert!(Accept::negotiate(Some("application/vnd.kubernetes.protobuf")).is_err());
        assert_eq!(Accept::negotiate(None).expect("ok"), Accept::JSON);
    }
}
