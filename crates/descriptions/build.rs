//! Collects the descriptions of the API's types from k8s-openapi's schemas, and packs them.
//!
//! The form: for each type, in the order of names, `T name US text RS`, and for each of its fields `F name US text RS`
//! (US and RS are ASCII's separators of units and records), all of it deflated.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;

use k8s_openapi::schemars::SchemaGenerator;
use serde_json::Value;

/// Asks for the schemas of types; what they refer to comes with them.
macro_rules! ask {
    ($generator:expr, $($ty:ty),+ $(,)?) => {
        $(let _ = $generator.subschema_for::<$ty>();)+
    };
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut generator = SchemaGenerator::default();
    ask_for_all(&mut generator);
    let mut text = String::new();
    // Readers search by name; the generator has them in the order in which they were met.
    let sorted: BTreeMap<_, _> = generator.definitions().iter().collect();
    for (name, schema) in sorted {
        record(&mut text, 'T', name, schema);
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            record(&mut text, 'F', field, schema);
        }
    }
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(text.as_bytes())?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("descriptions.deflate"), packed.finish()?)?;
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}

fn record(text: &mut String, mark: char, name: &str, schema: &Value) {
    let description = schema["description"].as_str().unwrap_or_default();
    text.push(mark);
    text.push_str(name);
    text.push('\x1f');
    text.push_str(description);
    text.push('\x1e');
}

/// The kinds of all stable groups, and the bodies that requests have beside them.
fn ask_for_all(generator: &mut SchemaGenerator) {
    use k8s_openapi::{api, apiextensions_apiserver, apimachinery, kube_aggregator};
    ask!(
        generator,
        api::admissionregistration::v1::MutatingAdmissionPolicy,
        api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
        api::admissionregistration::v1::MutatingWebhookConfiguration,
        api::admissionregistration::v1::ValidatingAdmissionPolicy,
        api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        api::admissionregistration::v1::ValidatingWebhookConfiguration,
        api::apps::v1::ControllerRevision,
        api::apps::v1::DaemonSet,
        api::apps::v1::Deployment,
        api::apps::v1::ReplicaSet,
        api::apps::v1::StatefulSet,
        api::authentication::v1::SelfSubjectReview,
        api::authentication::v1::TokenRequest,
        api::authentication::v1::TokenReview,
        api::authorization::v1::LocalSubjectAccessReview,
        api::authorization::v1::SelfSubjectAccessReview,
        api::authorization::v1::SelfSubjectRulesReview,
        api::authorization::v1::SubjectAccessReview,
        api::autoscaling::v1::HorizontalPodAutoscaler,
        api::autoscaling::v1::Scale,
        api::autoscaling::v2::HorizontalPodAutoscaler,
        api::batch::v1::CronJob,
        api::batch::v1::Job,
        api::certificates::v1::CertificateSigningRequest,
        api::coordination::v1::Lease,
        api::core::v1::Binding,
        api::core::v1::ComponentStatus,
        api::core::v1::ConfigMap,
        api::core::v1::Endpoints,
        api::core::v1::Event,
        api::core::v1::LimitRange,
        api::core::v1::Namespace,
        api::core::v1::Node,
        api::core::v1::PersistentVolume,
        api::core::v1::PersistentVolumeClaim,
        api::core::v1::Pod,
        api::core::v1::PodTemplate,
        api::core::v1::ReplicationController,
        api::core::v1::ResourceQuota,
        api::core::v1::Secret,
        api::core::v1::Service,
        api::core::v1::ServiceAccount,
        api::discovery::v1::EndpointSlice,
        api::events::v1::Event,
        api::flowcontrol::v1::FlowSchema,
        api::flowcontrol::v1::PriorityLevelConfiguration,
        api::networking::v1::IPAddress,
        api::networking::v1::Ingress,
        api::networking::v1::IngressClass,
        api::networking::v1::NetworkPolicy,
        api::networking::v1::ServiceCIDR,
        api::node::v1::RuntimeClass,
        api::policy::v1::Eviction,
        api::policy::v1::PodDisruptionBudget,
        api::rbac::v1::ClusterRole,
        api::rbac::v1::ClusterRoleBinding,
        api::rbac::v1::Role,
        api::rbac::v1::RoleBinding,
        api::resource::v1::DeviceClass,
        api::resource::v1::ResourceClaim,
        api::resource::v1::ResourceClaimTemplate,
        api::resource::v1::ResourceSlice,
        api::scheduling::v1::PriorityClass,
        api::storage::v1::CSIDriver,
        api::storage::v1::CSINode,
        api::storage::v1::CSIStorageCapacity,
        api::storage::v1::StorageClass,
        api::storage::v1::VolumeAttachment,
        api::storage::v1::VolumeAttributesClass,
        apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        apimachinery::pkg::apis::meta::v1::APIVersions,
        apimachinery::pkg::apis::meta::v1::DeleteOptions,
        apimachinery::pkg::apis::meta::v1::Patch,
        apimachinery::pkg::apis::meta::v1::Status,
        apimachinery::pkg::version::Info,
        kube_aggregator::pkg::apis::apiregistration::v1::APIService,
    );
}
