//! Paths and what can be done at them, from the registry.

use crate::facts::{TypeId, facts};
use crate::registry::{Resource, Subresource, registry};

/// A parameter in the query or the path.
#[derive(Debug)]
pub(super) struct Parameter {
    pub name: &'static str,
    pub kind: &'static str,
    /// Stands at each use, as clients look for it there by name.
    pub inline: bool,
    pub in_path: bool,
}

const fn query(name: &'static str, kind: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        inline: false,
        in_path: false,
    }
}

const fn inline(name: &'static str) -> Parameter {
    Parameter {
        name,
        kind: "string",
        inline: true,
        in_path: false,
    }
}

const fn path(name: &'static str) -> Parameter {
    Parameter {
        name,
        kind: "string",
        inline: false,
        in_path: true,
    }
}

pub(super) static PRETTY: Parameter = query("pretty", "string");
pub(super) static NAMESPACE: Parameter = path("namespace");
pub(super) static NAME: Parameter = path("name");
pub(super) static REST: Parameter = path("path");
pub(super) static DRY_RUN: Parameter = inline("dryRun");
pub(super) static FIELD_VALIDATION: Parameter = inline("fieldValidation");
pub(super) static FIELD_MANAGER: Parameter = query("fieldManager", "string");
pub(super) static FORCE: Parameter = query("force", "boolean");
pub(super) static SELECT: [Parameter; 8] = [
    query("continue", "string"),
    query("fieldSelector", "string"),
    query("labelSelector", "string"),
    query("limit", "integer"),
    query("resourceVersion", "string"),
    query("resourceVersionMatch", "string"),
    query("sendInitialEvents", "boolean"),
    query("timeoutSeconds", "integer"),
];
pub(super) static WATCH: [Parameter; 2] =
    [query("allowWatchBookmarks", "boolean"), query("watch", "boolean")];
pub(super) static DELETE: [Parameter; 3] = [
    query("gracePeriodSeconds", "integer"),
    query("orphanDependents", "boolean"),
    query("propagationPolicy", "string"),
];

/// Everything that is defined once in version 2 and referred to.
pub(super) fn shared() -> impl Iterator<Item = &'static Parameter> {
    [&PRETTY, &NAMESPACE, &NAME, &REST, &FIELD_MANAGER, &FORCE]
        .into_iter()
        .chain(&SELECT)
        .chain(&WATCH)
        .chain(&DELETE)
}

/// One method at one path.
#[derive(Debug)]
pub(super) struct Operation {
    pub method: &'static str,
    pub id: String,
    /// `get`, `list`, `post`, ..; empty for documents.
    pub action: &'static str,
    pub group_version_kind: Option<(String, String, String)>,
    pub tag: String,
    pub parameters: Vec<&'static Parameter>,
    pub body: Option<TypeId>,
    pub body_required: bool,
    pub returns: Option<TypeId>,
    /// Codes that carry what is returned.
    pub codes: &'static [&'static str],
}

/// A path with its methods.
#[derive(Debug)]
pub(super) struct PathItem {
    pub path: String,
    pub parameters: Vec<&'static Parameter>,
    pub operations: Vec<Operation>,
}

/// Every path of the API.
pub(super) fn all() -> impl Iterator<Item = PathItem> {
    documents()
        .into_iter()
        .chain(registry().resources().iter().flat_map(of_resource))
}

/// The paths of one group and version.
pub(super) fn of_group_version(group: &str, version: &str) -> impl Iterator<Item = PathItem> {
    let root = document(
        &root(group, version),
        &format!("get{}APIResources", camel(group, version)),
        "APIResourceList",
    );
    let resources = registry()
        .resources()
        .iter()
        .filter(move |r| r.group == group && r.version == version);
    std::iter::once(root).chain(resources.flat_map(of_resource))
}

/// Discovery and version.
fn documents() -> Vec<PathItem> {
    let mut items = vec![
        document("/api/", "getCoreAPIVersions", "APIVersions"),
        document("/apis/", "getAPIVersions", "APIGroupList"),
    ];
    for group in crate::discovery::groups() {
        let id = format!("get{}APIGroup", camel(group, ""));
        items.push(document(&format!("/apis/{group}/"), &id, "APIGroup"));
    }
    for (group, version) in registry().group_versions() {
        let id = format!("get{}APIResources", camel(group, version));
        items.push(document(&root(group, version), &id, "APIResourceList"));
    }
    let mut version = document("/version/", "getCodeVersion", "");
    version.operations[0].returns = facts().find("io.k8s.apimachinery.pkg.version.Info");
    items.push(version);
    items
}

fn document(path: &str, id: &str, returns: &str) -> PathItem {
    let operation = Operation {
        method: "get",
        id: id.to_owned(),
        action: "",
        group_version_kind: None,
        tag: path
            .trim_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned(),
        parameters: Vec::new(),
        body: None,
        body_required: false,
        returns: meta_type(returns),
        codes: &["200"],
    };
    PathItem {
        path: path.to_owned(),
        parameters: Vec::new(),
        operations: vec![operation],
    }
}

fn meta_type(name: &str) -> Option<TypeId> {
    facts().find(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"))
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("/api/{version}/")
    } else {
        format!("/apis/{group}/{version}/")
    }
}

/// The name of a group without its domain: `rbacAuthorization` of `rbac.authorization.k8s.io`.
fn short_group(group: &str) -> String {
    let short = group.strip_suffix(".k8s.io").unwrap_or(group);
    let mut name = String::with_capacity(short.len());
    for (index, part) in short.split('.').enumerate() {
        name.push_str(&if index == 0 {
            part.to_owned()
        } else {
            capital(part)
        });
    }
    if name.is_empty() { "core".to_owned() } else { name }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn camel(group: &str, version: &str) -> String {
    format!("{}{}", capital(&short_group(group)), capital(version))
}

/// What the operations of one resource have in common.
struct Context<'a> {
    resource: &'a Resource,
    /// `CoreV1`.
    prefix: String,
    /// `core_v1`.
    tag: String,
    /// `Namespaced`, or nothing.
    scope: &'static str,
}

pub(super) fn of_resource(resource: &Resource) -> Vec<PathItem> {
    let context = Context {
        resource,
        prefix: camel(&resource.group, &resource.version),
        tag: format!("{}_{}", short_group(&resource.group), resource.version),
        scope: if resource.namespaced { "Namespaced" } else { "" },
    };
    let root = root(&resource.group, &resource.version);
    let (base, scope_parameters) = if resource.namespaced {
        (
            format!("{root}namespaces/{{namespace}}/{}", resource.plural),
            vec![&NAMESPACE, &PRETTY],
        )
    } else {
        (format!("{root}{}", resource.plural), vec![&PRETTY])
    };
    let mut object_parameters = vec![&NAME];
    object_parameters.extend(&scope_parameters);
    let mut items = vec![PathItem {
        path: base.clone(),
        parameters: scope_parameters,
        operations: collection(&context),
    }];
    let object = object_operations(&context);
    if !object.is_empty() {
        items.push(PathItem {
            path: format!("{base}/{{name}}"),
            parameters: object_parameters.clone(),
            operations: object,
        });
    }
    for sub in &resource.subresources {
        items.push(PathItem {
            path: format!("{base}/{{name}}/{}", sub.name),
            parameters: object_parameters.clone(),
            operations: sub_operations(&context, sub),
        });
    }
    if resource.namespaced && resource.has_verb("list") {
        let id = format!("list{}{}ForAllNamespaces", context.prefix, resource.kind);
        items.push(PathItem {
            path: format!("{root}{}", resource.plural),
            parameters: vec![&PRETTY],
            operations: vec![list(&context, id)],
        });
    }
    items
}

impl Context<'_> {
    fn operation(&self, method: &'static str, action: &'static str, id: String) -> Operation {
        let r = self.resource;
        Operation {
            method,
            id,
            action,
            group_version_kind: Some((r.group.to_string(), r.version.to_string(), r.kind.to_string())),
            tag: self.tag.clone(),
            parameters: Vec::new(),
            body: None,
            body_required: false,
            returns: r.type_id,
            codes: &["200"],
        }
    }

    fn id(&self, verb: &str) -> String {
        format!("{verb}{}{}{}", self.prefix, self.scope, self.resource.kind)
    }
}

const WRITE: [&Parameter; 3] = [&DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION];

fn list(context: &Context<'_>, id: String) -> Operation {
    let r = context.resource;
    let mut operation = context.operation("get", "list", id);
    operation.parameters = SELECT.iter().chain(&WATCH).collect();
    operation.returns = facts().find_kind(&r.group, &r.version, &r.list_kind);
    operation
}

fn collection(context: &Context<'_>) -> Vec<Operation> {
    let r = context.resource;
    let mut operations = Vec::new();
    if r.has_verb("list") {
        operations.push(list(context, context.id("list")));
    }
    if r.has_verb("create") {
        operations.push(create(context, context.id("create")));
    }
    if r.has_verb("deletecollection") {
        let id = format!("delete{}Collection{}{}", context.prefix, context.scope, r.kind);
        let mut operation = context.operation("delete", "deletecollection", id);
        operation.parameters = std::iter::once(&DRY_RUN).chain(&SELECT).chain(&DELETE).collect();
        operation.body = meta_type("DeleteOptions");
        operation.returns = meta_type("Status");
        operations.push(operation);
    }
    operations
}

fn create(context: &Context<'_>, id: String) -> Operation {
    let mut operation = context.operation("post", "post", id);
    operation.parameters = WRITE.to_vec();
    operation.body = operation.returns;
    operation.body_required = true;
    operation.codes = &["200", "201", "202"];
    operation
}

fn replace(context: &Context<'_>, id: String) -> Operation {
    let mut operation = context.operation("put", "put", id);
    operation.parameters = WRITE.to_vec();
    operation.body = operation.returns;
    operation.body_required = true;
    operation.codes = &["200", "201"];
    operation
}

fn patch(context: &Context<'_>, id: String) -> Operation {
    let mut operation = context.operation("patch", "patch", id);
    operation.parameters = vec![&DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION, &FORCE];
    operation.body = meta_type("Patch");
    operation.body_required = true;
    operation.codes = &["200", "201"];
    operation
}

fn object_operations(context: &Context<'_>) -> Vec<Operation> {
    let r = context.resource;
    let mut operations = Vec::new();
    if r.has_verb("get") {
        operations.push(context.operation("get", "get", context.id("read")));
    }
    if r.has_verb("update") {
        operations.push(replace(context, context.id("replace")));
    }
    if r.has_verb("patch") {
        operations.push(patch(context, context.id("patch")));
    }
    if r.has_verb("delete") {
        let mut operation = context.operation("delete", "delete", context.id("delete"));
        operation.parameters = std::iter::once(&DRY_RUN).chain(&DELETE).collect();
        operation.body = meta_type("DeleteOptions");
        operation.returns = meta_type("Status");
        operation.codes = &["200", "202"];
        operations.push(operation);
    }
    operations
}

fn sub_operations(context: &Context<'_>, sub: &Subresource) -> Vec<Operation> {
    let r = context.resource;
    let (group, version) = match &sub.group_version {
        Some((group, version)) => (&**group, &**version),
        None => (&*r.group, &*r.version),
    };
    let body = facts().find_kind(group, version, &sub.kind);
    // Options of a connection are no objects: the method is all there is.
    let connects = body.is_none() && r.type_id.is_some();
    let suffix = capital(&sub.name);
    sub.verbs
        .iter()
        .filter_map(|verb| {
            let (method, prefix): (&'static str, &str) = match &**verb {
                "get" => ("get", "read"),
                "create" => ("post", "create"),
                "update" => ("put", "replace"),
                "patch" => ("patch", "patch"),
                "delete" => ("delete", "delete"),
                _ => return None,
            };
            let id = format!("{}{suffix}", context.id(prefix));
            let mut operation = match method {
                _ if connects => {
                    let id = format!(
                        "connect{}{}{}{}{suffix}",
                        context.prefix,
                        capital(method),
                        context.scope,
                        r.kind
                    );
                    context.operation(method, "connect", id)
                }
                "get" => context.operation("get", "get", id),
                "post" => create(context, id),
                "put" => replace(context, id),
                "patch" => patch(context, id),
                _ => context.operation("delete", "delete", id),
            };
            operation.group_version_kind = Some((group.to_owned(), version.to_owned(), sub.kind.to_string()));
            operation.returns = body;
            if matches!(method, "post" | "put") && !connects {
                operation.body = body;
            }
            Some(operation)
        })
        .collect()
}
