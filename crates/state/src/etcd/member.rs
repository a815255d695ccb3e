//! Connections to the members: TLS with a reloading certificate, keep-alive, and which member to ask next.

use crate::Error;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

/// A member on the same network answers a SYN in a millisecond; one that does not in a second is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// etcd closes connections that ping more often than every 5 s (`--grpc-keepalive-min-time`).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(6);
/// How long a ping may stay unanswered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two rounds over all members.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// A request is given up after this time. An etcd election takes up to 2 s, a client waits up to 60 s.
const TOTAL_DEADLINE: Duration = Duration::from_secs(10);

/// One try of a small request; then the next member is asked. A member that lost its leader answers after an
/// election, which takes one to two seconds, so that a second round finds it.
pub(super) const TRY_TIMEOUT: Duration = Duration::from_secs(1);
/// One try of a request whose answer may be large.
pub(super) const LARGE_TRY_TIMEOUT: Duration = Duration::from_secs(8);

/// A transport to a member.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How to reach one member.
#[derive(Clone)]
pub(super) struct Address {
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Address {
    /// Parses `https://host:port` (TLS needed) or `http://host:port`.
    pub(super) fn parse(url: &str, tls: Option<Arc<rustls::ClientConfig>>) -> Result<Self, Error> {
        let bad = |reason: &str| Error::Configuration(format!("endpoint {url}: {reason}"));
        let uri: Uri = url.parse().map_err(|_| bad("not a URL"))?;
        let host = uri.host().ok_or_else(|| bad("no host"))?;
        let tls = match uri.scheme_str() {
            Some("https") => Some(tls.ok_or_else(|| bad("needs a client certificate"))?),
            Some("http") => None,
            _ => return Err(bad("must start with https:// or http://")),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self {
            host,
            port: uri.port_u16().unwrap_or(2379),
            tls,
        })
    }

    /// A channel that connects when it is first used, and again when it has lost the connection.
    pub(super) fn channel(&self) -> Result<Channel, Error> {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        // TLS is the connector's affair: tonic must not see https, or it would want its own configuration.
        let endpoint = Endpoint::from_shared(format!("http://{host}:{}", self.port))
            .map_err(|e| Error::Configuration(e.to_string()))?
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(false)
            .tcp_nodelay(true);
        let address = self.clone();
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| address.clone().connect())))
    }

    async fn connect(self) -> Result<TokioIo<Pin<Box<dyn Io>>>, std::io::Error> {
        let connect = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
            tcp.set_nodelay(true)?;
            let Some(tls) = self.tls else {
                return Ok::<Pin<Box<dyn Io>>, std::io::Error>(Box::pin(tcp));
            };
            let name = ServerName::try_from(self.host.clone()).map_err(std::io::Error::other)?;
            let stream = tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await?;
            Ok(Box::pin(stream) as Pin<Box<dyn Io>>)
        };
        let io = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        Ok(TokioIo::new(io))
    }
}

/// All members, and the one that answered last.
pub(super) struct Members {
    addresses: Vec<Address>,
    channels: Vec<Channel>,
    preferred: AtomicUsize,
}

/// An answer, and whether an earlier try may have had an effect.
pub(super) struct Answer<T> {
    pub(super) value: T,
    pub(super) retried: bool,
}

impl Members {
    pub(super) fn new(addresses: Vec<Address>) -> Result<Self, Error> {
        if addresses.is_empty() {
            return Err(Error::Configuration("no endpoints".into()));
        }
        let channels = addresses.iter().map(Address::channel).collect::<Result<_, _>>()?;
        Ok(Self {
            addresses,
            channels,
            preferred: AtomicUsize::new(0),
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// The member that answered last.
    pub(super) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// A connection of its own to a member, for a watch.
    pub(super) fn fresh_channel(&self, index: usize) -> Result<Channel, Error> {
        self.addresses[index % self.addresses.len()].channel()
    }

    /// Sends a request to one member after the other until one answers.
    pub(super) async fn call<T, F, Fut>(
        &self,
        action: &'static str,
        try_timeout: Duration,
        send: F,
    ) -> Result<Answer<T>, Error>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let started = tokio::time::Instant::now();
        let mut retried = false;
        let mut tries = 0;
        loop {
            let index = self.preferred();
            let outcome = tokio::time::timeout(try_timeout, send(self.channels[index].clone())).await;
            let reason = match outcome {
                Ok(Ok(response)) => {
                    return Ok(Answer {
                        value: response.into_inner(),
                        retried,
                    });
                }
                Ok(Err(status)) => {
                    if let Some(error) = definite(action, &status) {
                        return Err(error);
                    }
                    status.message().to_owned()
                }
                Err(_) => format!("no answer in {try_timeout:?}"),
            };
            retried = true;
            tries += 1;
            tracing::debug!(
                action,
                member = index,
                reason,
                "state store member did not answer"
            );
            let next = (index + 1) % self.channels.len();
            // Somebody else may have moved on already.
            let _ = self
                .preferred
                .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
            if started.elapsed() > TOTAL_DEADLINE {
                return Err(Error::Unavailable(reason));
            }
            if tries % self.channels.len() == 0 {
                tokio::time::sleep(ROUND_PAUSE).await;
            }
        }
    }
}

/// The error of a request that no other member would answer differently.
fn definite(action: &'static str, status: &tonic::Status) -> Option<Error> {
    match status.code() {
        Code::OutOfRange if status.message().contains("compacted") => Some(Error::Compacted { oldest: 0 }),
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Some(Error::Refused {
            action,
            reason: status.message().to_owned(),
        }),
        Code::ResourceExhausted if !status.message().contains("too many requests") => Some(Error::Refused {
            action,
            reason: status.message().to_owned(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        assert!(Address::parse("https://127.0.0.1:2379", None).is_err());
        assert!(Address::parse("ftp://127.0.0.1", None).is_err());
        let address = Address::parse("http://[::1]:1", None).expect("valid");
        assert_eq!((address.host.as_str(), address.port), ("::1", 1));
    }
}
