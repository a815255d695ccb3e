//! From a request to its handler: authentication, authorization, dispatch.

use crate::authn::User;
use crate::authn::client::Client;
use crate::authz::{Attributes, refusal};
use crate::call::{Call, MAX_BODY_BYTES, Response, read_body};
use crate::http::accept::Accept;
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::http::respond;
use crate::http::status::Status;
use crate::limits::is_long_running;
use crate::metrics::Kind;
use crate::rest::update::Part;
use crate::rest::{
    create, delete, delete_collection, list, managed, patch, read, subresource, update, watch,
};
use crate::server::Server;
use crate::{impersonate, plain};
use http::Request;
use hyper::body::{Body as _, Incoming};
use parking_lot::Mutex;
use schema::Resource;
use schema::selectors::FieldSelector;
use std::sync::Arc;
use std::time::Instant;

/// Answers one request. Whatever goes wrong becomes a `Status`.
pub async fn handle(server: Arc<Server>, client: Arc<Client>, request: Request<Incoming>) -> Response {
    let started = Instant::now();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let info = RequestInfo::parse(request.method(), request.uri().path(), &query);
    let applies = is_apply(request.headers());
    let known = lookup(&server, &info);
    let kind = Kind::new(&info, known, applies, query.get("dryRun") == Some("All"));
    // A watch is counted until its stream ends, which it does long after this.
    let running = (is_long_running(&info)).then(|| server.metrics.begin(kind));
    let traced = tracing::enabled!(tracing::Level::DEBUG).then(|| (info.verb.clone(), info.path.clone()));
    let accept_encoding = request.headers().get(http::header::ACCEPT_ENCODING).cloned();
    let mut response = match answer(&server, &client, known, info, query, request).await {
        Ok(response) => response,
        Err(status) => respond::failure(Accept::JSON, &status),
    };
    respond::compress(accept_encoding.as_ref(), &mut response);
    if let Some(running) = running {
        response.body_mut().hold(running);
    }
    let code = response.status().as_u16();
    let took = started.elapsed();
    server.metrics.observe(kind, code, took);
    if let Some((verb, path)) = traced {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(verb, path, code, took_us, "request");
    }
    response
}

/// Whether a body is a configuration to be applied.
fn is_apply(headers: &http::HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/apply-patch"))
}

async fn answer(
    server: &Arc<Server>,
    client: &Client,
    known: Option<&'static Resource>,
    info: RequestInfo,
    query: Query,
    mut request: Request<Incoming>,
) -> Result<Response, Status> {
    let user = client.authenticate(server, request.headers()).await?;
    let user = impersonate::apply(server, user, request.headers())?;
    let _slot = server.limits.enter(&info, &user)?;
    let wanted = attributes(&info, &query);
    authorize(server, &info, &user, &wanted).await?;
    let header = request
        .headers()
        .get(http::header::ACCEPT)
        .and_then(|v| v.to_str().ok());
    if !info.is_resource() {
        let etag = request
            .headers()
            .get(http::header::IF_NONE_MATCH)
            .and_then(|v| v.to_str().ok());
        return Box::pin(plain::answer(server, &info, &query, header, etag)).await;
    }
    let resource = match known {
        Some(resource) => resource,
        None => find(server, &info).await?,
    };
    if resource.namespaced && info.namespace.is_empty() && !info.name.is_empty() {
        return Err(Status::no_such_path());
    }
    // A name is one segment of a path, here and in the state store.
    if [&info.name, &info.namespace]
        .iter()
        .any(|part| part.contains(['/', '%']) || matches!(part.as_str(), "." | ".."))
    {
        return Err(Status::bad_request(
            "names may not be \".\" or \"..\", nor contain \"/\" or \"%\"",
        ));
    }
    let relayed = subresource::is_relayed(resource, &info);
    // The kubelet decides about the form of what it sends.
    let accept = if relayed {
        Accept::JSON
    } else {
        Accept::negotiate(header, resource.type_id.is_some())?
    };
    let headers = if relayed {
        request.headers().clone()
    } else {
        std::mem::take(request.headers_mut())
    };
    let call = Call {
        server: server.clone(),
        user,
        query,
        headers,
        accept,
        warnings: Mutex::default(),
        info,
    };
    if relayed {
        return Box::pin(crate::kubelet::relay(&call, resource, request)).await;
    }
    let call = Arc::new(call);
    // Held until the answer is there.
    let mut room = None;
    let body = match request.method().as_str() {
        "GET" | "HEAD" => bytes::Bytes::new(),
        _ => {
            let size = request.body().size_hint().upper();
            let size = size
                .and_then(|s| usize::try_from(s).ok())
                .unwrap_or(MAX_BODY_BYTES);
            room = server
                .limits
                .enter_body(&call.info, &call.user, size.min(MAX_BODY_BYTES))?;
            read_body(request.into_body()).await?
        }
    };
    let mut response = match dispatch(&call, resource, &body).await {
        Ok(response) => response,
        Err(status) => respond::failure(accept, &status),
    };
    drop(room);
    respond::add_warnings(&call, &mut response);
    Ok(response)
}

/// The resource that a request is about, as far as this server knows.
fn lookup(server: &Server, info: &RequestInfo) -> Option<&'static Resource> {
    if let Some(resource) = info.lookup() {
        return Some(resource);
    }
    let customs = server.store.customs();
    customs
        .find(&info.group, &info.version, &info.resource)
        .map(|served| served.resource)
}

/// A resource that another server may just have begun to serve.
async fn find(server: &Server, info: &RequestInfo) -> Result<&'static Resource, Status> {
    // Groups of custom resources have a dot.
    if info.group.contains('.') {
        server.store.fresh(crate::store::Freshness::Newest).await?;
    }
    lookup(server, info).ok_or_else(Status::no_such_path)
}

/// What the request asks for. A list or watch of one object by its name is about that object.
fn attributes(info: &RequestInfo, query: &Query) -> Attributes {
    let mut wanted = Attributes::from(info);
    wanted.fields = query.get("fieldSelector").unwrap_or_default().to_owned();
    if wanted.name.is_empty() && matches!(wanted.verb.as_str(), "list" | "watch" | "deletecollection") {
        // The parser that selects the objects, so that no spelling means one thing here and another there.
        let selector = FieldSelector::parse(&wanted.fields).unwrap_or_default();
        wanted.name = selector
            .required_value("metadata.name")
            .unwrap_or_default()
            .to_owned();
    }
    wanted
}

/// Refuses what the user may not do. Before it does, it makes sure that the rights it knows are the newest.
async fn authorize(
    server: &Server,
    info: &RequestInfo,
    user: &User,
    wanted: &Attributes,
) -> Result<(), Status> {
    let first = server.authorizer.allows(&server.store, user, wanted);
    let Err(reason) = first else { return Ok(()) };
    if user.is_anonymous() {
        // Nobody may make the server ask the state store without saying who he is.
        return Err(forbidden(server, info, user, wanted, &reason));
    }
    server.store.fresh(crate::store::Freshness::Newest).await?;
    match server.authorizer.allows(&server.store, user, wanted) {
        Ok(()) => Ok(()),
        Err(reason) => Err(forbidden(server, info, user, wanted, &reason)),
    }
}

fn forbidden(server: &Server, info: &RequestInfo, user: &User, wanted: &Attributes, reason: &str) -> Status {
    let why = refusal(user, wanted, reason);
    if !info.is_resource() {
        return Status::new(403, "Forbidden", format!("forbidden: {why}"));
    }
    let mut status = match lookup(server, info) {
        Some(resource) => Status::forbidden(resource, &info.name, why),
        None => Status::new(403, "Forbidden", format!("{} is forbidden: {why}", info.resource)),
    };
    status
        .details
        .entry("kind")
        .or_insert_with(|| info.resource.clone().into());
    status
}

/// Tells users of a deprecated version, and refuses new objects of a definition that is being deleted.
fn check_custom(call: &Call, resource: &Resource) -> Result<(), Status> {
    let customs = call.server.store.customs();
    let Some(served) = customs.find(&resource.group, &resource.version, &resource.plural) else {
        return Err(Status::no_such_path());
    };
    if let Some(warning) = served.deprecated {
        call.warn(warning);
    }
    if served.terminating && call.info.verb == "create" && call.info.subresource.is_empty() {
        let message = "create not allowed while custom resource definition is terminating";
        return Err(Status::new(405, "MethodNotAllowed", message));
    }
    Ok(())
}

async fn dispatch(call: &Arc<Call>, resource: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    let verb = call.info.verb.as_str();
    managed::check_options(call)?;
    if resource.is_custom() {
        check_custom(call, resource)?;
    }
    if !call.info.subresource.is_empty() {
        let known = resource
            .subresource(&call.info.subresource)
            .ok_or_else(Status::no_such_path)?;
        if !known.verbs.iter().any(|v| v == verb) {
            return Err(Status::method_not_allowed());
        }
        return Box::pin(subresource::answer(call, resource, body)).await;
    }
    if !resource.is_stored() {
        return match verb {
            "create" => Box::pin(crate::reviews::answer(call, resource, body)).await,
            _ => Err(Status::method_not_allowed()),
        };
    }
    if !resource.has_verb(verb) {
        return Err(Status::method_not_allowed());
    }
    if verb == "get" {
        return read::get(call, resource).await;
    }
    // On the heap, so that a simple read does not move the room that the others need.
    Box::pin(dispatch_stored(call, resource, body)).await
}

async fn dispatch_stored(
    call: &Arc<Call>,
    resource: &'static Resource,
    body: &[u8],
) -> Result<Response, Status> {
    match call.info.verb.as_str() {
        "list" => list::list(call, resource).await,
        "watch" => watch::watch(call.clone(), resource).await,
        "create" => create::post(call, resource, body).await,
        "update" => update::put(call, resource, Part::Main, body).await,
        "patch" => patch::patch(call, resource, Part::Main, body).await,
        "delete" => delete::delete(call, resource, body).await,
        "deletecollection" => delete_collection::delete(call, resource, body).await,
        _ => Err(Status::method_not_allowed()),
    }
}
