//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction: who may decide about requests of a signer.

use super::Operation;
use crate::authz::Attributes;
use crate::call::Call;
use crate::http::status::Status;
use crate::store::Freshness;
use schema::Resource;
use serde_json::Value;

const GROUP: &str = "certificates.k8s.io";
/// The signer whose certificates the API server trusts.
const API_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Checks a write of a certificate signing request.
pub async fn check(
    call: &Call,
    operation: Operation,
    resource: &Resource,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), Status> {
    let signer = new["spec"]["signerName"].as_str().unwrap_or_default();
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    if operation == Operation::Create {
        if signer == API_SIGNER && asks_for_masters(new) {
            let why =
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
            return Err(Status::forbidden(resource, name, why));
        }
        return Ok(());
    }
    let certificate = |object: &Value| object["status"]["certificate"].clone();
    let (verb, doing) = match call.info.subresource.as_str() {
        "approval" => ("approve", "approve"),
        "status" if old.is_some_and(|old| certificate(old) != certificate(new)) => ("sign", "sign"),
        _ => return Ok(()),
    };
    if may(call, verb, signer) {
        return Ok(());
    }
    call.server.store.fresh(Freshness::Newest).await?;
    if may(call, verb, signer) {
        return Ok(());
    }
    let why = format!("user not permitted to {doing} requests with signerName {signer:?}");
    Err(Status::forbidden(resource, name, why))
}

/// Rights are on the signer, or on all signers of its domain.
fn may(call: &Call, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    [signer.to_owned(), format!("{domain}/*")]
        .into_iter()
        .any(|name| {
            let wanted = Attributes {
                verb: verb.into(),
                group: GROUP.into(),
                resource: "signers".into(),
                name,
                ..Attributes::default()
            };
            let server = &call.server;
            server
                .authorizer
                .allows(&server.store, &call.user, &wanted)
                .is_ok()
        })
}

/// Whether the PKCS#10 request within names the group of administrators.
fn asks_for_masters(object: &Value) -> bool {
    use base64::Engine as _;
    use x509_parser::prelude::FromDer as _;
    let text = object["spec"]["request"].as_str().unwrap_or_default();
    let Ok(pem) = base64::engine::general_purpose::STANDARD.decode(text) else {
        return false;
    };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&pem) else {
        return false;
    };
    let Ok((_, request)) =
        x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
    else {
        return false;
    };
    let mut groups = request.certification_request_info.subject.iter_organization();
    groups.any(|group| group.as_str().is_ok_and(|text| text == crate::authn::MASTERS))
}
