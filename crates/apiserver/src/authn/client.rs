//! Who is at the other end of a connection, and what it showed last: most clients show the same token with each of
//! their requests, so it is looked at in full only when something that its validity rests on has changed.

use super::{User, bearer, bootstrap, token};
use crate::http::status::Status;
use crate::server::Server;
use crate::store::Freshness;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use std::sync::Arc;

/// The client of one connection.
#[derive(Default)]
pub struct Client {
    /// The user that its certificate names.
    certified: Option<Arc<User>>,
    /// The token that it showed last.
    shown: Mutex<Option<Arc<Shown>>>,
}

/// A token that was found good.
struct Shown {
    /// The whole header.
    header: Box<[u8]>,
    user: Arc<User>,
    basis: token::Basis,
}

impl Client {
    /// The client with this certificate.
    pub fn new(peer: Option<&tls::Peer>) -> Self {
        Self {
            certified: peer.and_then(User::from_certificate).map(Arc::new),
            shown: Mutex::default(),
        }
    }

    /// The user of a request.
    pub async fn authenticate(&self, server: &Server, headers: &HeaderMap) -> Result<Arc<User>, Status> {
        if let Some(user) = &self.certified {
            return Ok(user.clone());
        }
        if let Some(user) = self.known(headers) {
            return Ok(user);
        }
        let Some(text) = bearer(headers)? else {
            return Ok(Arc::new(User::anonymous()));
        };
        if bootstrap::is_one(text) {
            if bootstrap::verify(&server.store, text).is_none() {
                // It may be newer than this server's cache.
                server.store.fresh(Freshness::Newest).await?;
            }
            let user = bootstrap::verify(&server.store, text);
            return user.map(Arc::new).ok_or_else(Status::unauthorized);
        }
        let audiences = [server.issuer.url.clone()];
        if let Some(verified) = token::verify(&server.issuer, &server.store, text, &audiences) {
            return Ok(self.remember(headers, verified));
        }
        // The service account may be newer than this server's cache.
        if server.issuer.verify(text).is_some() {
            server.store.fresh(Freshness::Newest).await?;
            if let Some(verified) = token::verify(&server.issuer, &server.store, text, &audiences) {
                return Ok(self.remember(headers, verified));
            }
        }
        Err(Status::unauthorized())
    }

    /// The user of the token that was shown last, if it is shown again and nothing has changed about it.
    fn known(&self, headers: &HeaderMap) -> Option<Arc<User>> {
        let header = headers.get(AUTHORIZATION)?;
        let shown = self.shown.lock().clone()?;
        let same = *shown.header == *header.as_bytes();
        (same && shown.basis.holds()).then(|| shown.user.clone())
    }

    fn remember(&self, headers: &HeaderMap, verified: token::Verified) -> Arc<User> {
        let user = Arc::new(verified.user);
        if let (Some(header), Some(basis)) = (headers.get(AUTHORIZATION), verified.basis) {
            *self.shown.lock() = Some(Arc::new(Shown {
                header: header.as_bytes().into(),
                user: user.clone(),
                basis,
            }));
        }
        user
    }
}
