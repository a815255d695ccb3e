//! Which versions the two ends of a connection speak. Each names in its hello the version of framing and control messages
//! and that of the messages of the core; who cannot speak the other's says so and closes, before anything else is said.

use super::Error;
use super::control::Hello;
use super::frame::PROTOCOL;
use crate::core::wire::WIRE_VERSION;
use uuid::Uuid;

/// What a build that did not name the version of the core's messages spoke.
pub fn first_messages() -> u32 {
    1
}

impl Hello {
    /// Our side of the handshake.
    pub fn ours(cluster: &str, store: Option<Uuid>) -> Hello {
        Hello {
            protocol: PROTOCOL,
            messages: u32::from(WIRE_VERSION),
            cluster: cluster.to_owned(),
            store,
        }
    }

    /// Whether we speak what the other end speaks.
    pub fn check_version(&self) -> Result<(), Error> {
        let pairs = [
            ("protocol", self.protocol, PROTOCOL),
            ("messages", self.messages, u32::from(WIRE_VERSION)),
        ];
        match pairs.into_iter().find(|(_, theirs, ours)| theirs != ours) {
            None => Ok(()),
            Some((what, theirs, ours)) => Err(Error::Version { what, theirs, ours }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StorageConfig;
    use crate::net::client::{Dialer, StoreAddress};
    use crate::net::control;
    use crate::net::frame::{FrameReader, Kind, header};
    use std::net::Ipv4Addr;
    use std::time::Duration;
    use tls::{Authority, Subject};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    /// Certificates of a store and an engine in a directory.
    fn authority(dir: &std::path::Path) -> Authority {
        tls::install_provider();
        let authority = Authority::open(dir, "storage").unwrap();
        for (name, uri) in [("store", "hikube://c/store/a"), ("engine", "hikube://c/engine/n")] {
            let subject = Subject {
                common_name: name.into(),
                uris: vec![uri.into()],
                ips: vec![Ipv4Addr::LOCALHOST.into()],
                server: true,
                client: true,
                validity: Duration::from_secs(3600),
                ..Subject::default()
            };
            authority.issue_files(name, &subject).unwrap();
        }
        authority
    }

    fn dialer(authority: &Authority) -> Dialer {
        let files = authority.files("engine");
        Dialer::new(&StorageConfig {
            stores: Vec::new(),
            storage_cert: files.cert,
            storage_key: files.key,
            storage_ca: files.ca,
        })
        .unwrap()
    }

    #[tokio::test]
    async fn a_store_refuses_an_engine_of_another_version_with_words() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(&dir.path().join("pki"));
        crate::store_format(&dir.path().join("data"), "c", "a").unwrap();
        let listen = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let files = authority.files("store");
        let config = crate::StoreConfig {
            region: "a".into(),
            cluster: "c".into(),
            data_dir: dir.path().join("data"),
            listen,
            storage_cert: files.cert,
            storage_key: files.key,
            storage_ca: files.ca,
            scrub_hours: 0,
        };
        let stop = CancellationToken::new();
        let store = tokio::spawn(crate::store::run(config, stop.clone()));
        let (dialer, to) = (
            dialer(&authority),
            StoreAddress::parse(&format!("a={listen}")).unwrap(),
        );
        while dialer.connect(&to).await.is_err() {
            assert!(!store.is_finished());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let newer = Hello {
            messages: 9,
            ..Hello::ours("c", None)
        };
        let error = dialer.greet(&to, &newer).await.err().unwrap();
        assert!(matches!(error, Error::Refused(_)), "{error}");
        assert!(error.to_string().contains("version 9 of the messages"), "{error}");
        stop.cancel();
        store.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_engine_does_not_talk_to_a_store_of_another_version() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let files = authority.files("store");
        let files = tls::IdentityFiles {
            cert: files.cert,
            key: files.key,
            ca: files.ca,
        };
        let config = tls::server_config(&files, tls::ClientAuth::Required, &[]).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let to = StoreAddress::parse(&format!("a={}", listener.local_addr().unwrap())).unwrap();
        let store = tokio::spawn(async move {
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            assert!(FrameReader::new(&mut stream).next().await.unwrap().is_some());
            let answer = Hello {
                protocol: PROTOCOL + 3,
                ..Hello::ours("c", Some(Uuid::nil()))
            };
            let payload = control::to_json(&answer);
            stream
                .write_all(&header(Kind::Hello, 0, payload.len()))
                .await
                .unwrap();
            stream.write_all(&payload).await.unwrap();
            stream.flush().await.unwrap();
        });
        let error = dialer(&authority).connect(&to).await.err().unwrap();
        store.await.unwrap();
        assert!(
            error.to_string().contains("speaks version 4 of the protocol"),
            "{error}"
        );
    }

    #[test]
    fn another_version_is_refused_and_both_are_named() {
        let ours = Hello::ours("c", None);
        assert!(ours.check_version().is_ok());
        for (protocol, messages) in [
            (PROTOCOL + 1, u32::from(WIRE_VERSION)),
            (PROTOCOL, u32::from(WIRE_VERSION) + 1),
        ] {
            let theirs = Hello {
                protocol,
                messages,
                ..ours.clone()
            };
            let wrong = if protocol == PROTOCOL { messages } else { protocol };
            let error = theirs.check_version().unwrap_err().to_string();
            assert!(error.contains(&format!("version {wrong}")), "{error}");
            assert!(error.contains("only"), "{error}");
        }
    }

    #[test]
    fn a_hello_without_the_version_of_messages_is_of_the_first() {
        let old = br#"{"protocol":1,"cluster":"c"}"#;
        let old: Hello = control::from_json(old).unwrap();
        assert_eq!(old.messages, 1);
        assert!(matches!(
            old.check_version(),
            Err(Error::Version {
                what: "messages",
                theirs: 1,
                ..
            })
        ));
    }
}
