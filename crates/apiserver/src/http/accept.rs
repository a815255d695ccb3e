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
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// The answer's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// What is sent.
    pub shape: Shape,
    /// How it is encoded.
    pub encoding: Encoding,
}

/// Media type of Kubernetes' own protobuf envelope.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What can be sent of built-in resources, and of those whose types are not known here.
pub const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const ACCEPTED_CUSTOM: &str = "application/json, application/yaml";

impl Accept {
    /// Plain JSON.
    pub const JSON: Self = Self {
        shape: Shape::Full,
        encoding: Encoding::Json,
    };

    /// Chooses the first alternative of an `Accept` header that can be served. Objects that are not `built_in` have
    /// no protobuf form, except for their metadata.
    pub fn negotiate(header: Option<&str>, built_in: bool) -> Result<Self, Status> {
        let Some(header) = header.filter(|h| !h.trim().is_empty()) else {
            return Ok(Self::JSON);
        };
        let served = |accept: &Self| {
            accept.encoding != Encoding::Protobuf || built_in || matches!(accept.shape, Shape::Metadata(_))
        };
        header
            .split(',')
            .filter_map(alternative)
            .find(served)
            .ok_or_else(|| Status::not_acceptable(if built_in { ACCEPTED } else { ACCEPTED_CUSTOM }))
    }

    /// The answer's content type.
    pub fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => PROTOBUF,
        }
    }

    /// The content type of a watch; none where events cannot be told apart.
    pub fn stream_content_type(self) -> Option<&'static str> {
        match self.encoding {
            Encoding::Json => Some("application/json"),
            Encoding::Yaml => None,
            Encoding::Protobuf => Some("application/vnd.kubernetes.protobuf;stream=watch"),
        }
    }
}

fn alternative(text: &str) -> Option<Accept> {
    let mut parts = text.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "*/*" | "application/*" | "text/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        PROTOBUF => Encoding::Protobuf,
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
        // Tables have no protobuf form anywhere.
        "Table" if known && encoding != Encoding::Protobuf => Shape::Table(version),
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
        let negotiate = |header, built_in| Accept::negotiate(Some(header), built_in).map_err(|s| s.code);
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(negotiate(kubectl, true).unwrap().shape, Shape::Table("v1"));
        let go = "application/vnd.kubernetes.protobuf, */*";
        assert_eq!(negotiate(go, true).unwrap().encoding, Encoding::Protobuf);
        assert_eq!(negotiate(go, false), Ok(Accept::JSON));
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf", false), Err(406));
        assert_eq!(negotiate("text/html", true), Err(406));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        let accept = negotiate(metadata, false).unwrap();
        assert_eq!(
            (accept.shape, accept.encoding),
            (Shape::Metadata("v1"), Encoding::Protobuf)
        );
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(negotiate(table, true), Ok(Accept::JSON));
        assert_eq!(Accept::negotiate(None, true).unwrap(), Accept::JSON);
    }
}
