//! The connecting side: addresses of the stores, and one connection with hello.

use super::control::{self, Hello};
use super::frame::{FrameReader, Kind};
use super::identity::{Identity, Role};
use super::outbox::Outbox;
use super::{CONNECT_TIMEOUT, Error};
use crate::StorageConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use uuid::Uuid;

/// A store's region and address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreAddress {
    /// Region.
    pub region: String,
    /// `host:port`.
    pub address: String,
}

impl StoreAddress {
    /// Reads `region=host:port`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Address(text.to_owned());
        let (region, address) = text.split_once('=').ok_or_else(wrong)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        if region.is_empty() || host.is_empty() || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Self {
            region: region.to_owned(),
            address: address.to_owned(),
        })
    }

    fn server_name(&self) -> Result<ServerName<'static>, Error> {
        let host = self.address.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(host.to_owned()).map_err(|_| Error::Address(self.address.clone()))
    }
}

/// Makes connections to stores.
#[derive(Clone)]
pub struct Dialer {
    connector: TlsConnector,
    /// Who we are.
    pub identity: Identity,
}

/// A connection that is ready for use.
pub struct Connection {
    /// Identity of the store.
    pub store: Uuid,
    /// What it sends.
    pub reader: FrameReader<ReadHalf<TlsStream<TcpStream>>>,
    /// Where [`Outbox::drain`] sends to.
    pub writer: WriteHalf<TlsStream<TcpStream>>,
}

impl Dialer {
    /// With the identity of the configuration.
    pub fn new(config: &StorageConfig) -> Result<Self, Error> {
        let files = tls::IdentityFiles {
            cert: config.storage_cert.clone(),
            key: config.storage_key.clone(),
            ca: config.storage_ca.clone(),
        };
        Ok(Self {
            connector: TlsConnector::from(tls::client_config(&files, &[])?),
            identity: Identity::of_file(&files.cert)?,
        })
    }

    /// Connects within [`CONNECT_TIMEOUT`] and makes sure that it is that region's store of our cluster.
    pub async fn connect(&self, to: &StoreAddress) -> Result<Connection, Error> {
        let hello = Hello::ours(&self.identity.cluster, None);
        tokio::time::timeout(CONNECT_TIMEOUT, self.greet(to, &hello))
            .await
            .unwrap_or(Err(Error::Silent(CONNECT_TIMEOUT)))
    }

    /// Connects and greets with that hello.
    pub(crate) async fn greet(&self, to: &StoreAddress, hello: &Hello) -> Result<Connection, Error> {
        let stream = TcpStream::connect(&to.address).await?;
        stream.set_nodelay(true)?;
        let stream = self.connector.connect(to.server_name()?, stream).await?;
        let wanted = Identity {
            cluster: self.identity.cluster.clone(),
            role: Role::Store(to.region.clone()),
        };
        let chain = stream.get_ref().1.peer_certificates();
        if Identity::of_chain(chain).as_ref() != Some(&wanted) {
            return Err(Error::Identity {
                found: tls::peer_of(chain).map(|peer| peer.uris).unwrap_or_default(),
                wanted: wanted.to_string(),
            });
        }
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader);
        let payload = control::to_json(hello);
        let mut first = super::frame::header(Kind::Hello, 0, payload.len()).to_vec();
        first.extend_from_slice(&payload);
        tokio::io::AsyncWriteExt::write_all(&mut writer, &first).await?;
        tokio::io::AsyncWriteExt::flush(&mut writer).await?;
        let frame = reader
            .next()
            .await?
            .ok_or_else(|| Error::Protocol("closed before its hello".into()))?;
        if frame.kind != Kind::Hello {
            return Err(Error::Refused(
                String::from_utf8_lossy(&frame.payload).into_owned(),
            ));
        }
        let answer: Hello = control::from_json(&frame.payload)?;
        answer.check_version()?;
        let store = answer
            .store
            .ok_or_else(|| Error::Protocol("a store without identity".into()))?;
        Ok(Connection {
            store,
            reader,
            writer,
        })
    }

    /// One request on a connection of its own.
    pub async fn ask(
        &self,
        to: &StoreAddress,
        request: &control::Request,
    ) -> Result<control::Response, Error> {
        let mut connection = self.connect(to).await?;
        let outbox = Arc::new(Outbox::default());
        outbox.send_json(Kind::Request, 1, request);
        let sending = outbox.clone();
        let writer = connection.writer;
        let sender = tokio::spawn(async move { sending.drain(writer).await });
        let answer = loop {
            match connection.reader.next().await? {
                Some(frame) if frame.kind == Kind::Response => break control::from_json(&frame.payload),
                Some(_) => continue,
                None => break Err(Error::Protocol("closed before its answer".into())),
            }
        };
        sender.abort();
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let good = StoreAddress::parse("geneva=10.0.0.1:7000").unwrap();
        assert_eq!(
            (good.region.as_str(), good.address.as_str()),
            ("geneva", "10.0.0.1:7000")
        );
        assert!(StoreAddress::parse("a=[::1]:7000").unwrap().server_name().is_ok());
        for bad in ["geneva", "=h:1", "a=:1", "a=h", "a=h:x", "a=h:70000"] {
            assert!(StoreAddress::parse(bad).is_err(), "{bad}");
        }
    }
}
