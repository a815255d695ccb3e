//! Real handshakes between identities that `Authority` issued.
#![allow(clippy::unwrap_used)]

use hikube_tls::{self as tls, Authority, ClientAuth, IdentityFiles, Peer, Subject};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn subject(name: &str) -> Subject {
    Subject {
        common_name: name.into(),
        organizations: vec!["system:nodes".into()],
        dns: vec!["localhost".into()],
        uris: vec![format!("hikube://test/engine/{name}")],
        server: true,
        client: true,
        validity: Duration::from_secs(3600),
        ..Subject::default()
    }
}

/// One handshake; what each side learned of the other.
async fn handshake(
    server: &Arc<rustls::ServerConfig>,
    client: &Arc<rustls::ClientConfig>,
) -> Result<(Option<Peer>, Option<Peer>), std::io::Error> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let acceptor = TlsAcceptor::from(server.clone());
    let accepted = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await?;
        let mut stream = acceptor.accept(tcp).await?;
        let peer = tls::peer_of(stream.get_ref().1.peer_certificates());
        // With TLS 1.3 a client learns only from the first bytes whether it was accepted.
        stream.write_all(b"!").await?;
        Ok::<_, std::io::Error>(peer)
    });
    let tcp = TcpStream::connect(address).await?;
    let name = "localhost".try_into().expect("a DNS name");
    let mut stream = TlsConnector::from(client.clone()).connect(name, tcp).await?;
    stream.read_u8().await?;
    let seen = tls::peer_of(stream.get_ref().1.peer_certificates());
    Ok((accepted.await.expect("no panic")?, seen))
}

fn configs(
    server: &IdentityFiles,
    client: &IdentityFiles,
) -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    (
        tls::server_config(server, ClientAuth::Required, &[]).expect("server"),
        tls::client_config(client, &[]).expect("client"),
    )
}

#[tokio::test]
async fn both_sides_see_the_peer_and_a_renewed_certificate_is_used_at_once() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = Authority::open(dir.path(), "test").expect("authority");
    let server_files = ca.issue_files("server", &subject("store")).expect("issue");
    let client_files = ca.issue_files("client", &subject("node-1")).expect("issue");
    let (server, client) = configs(&server_files, &client_files);

    let (of_client, of_server) = handshake(&server, &client).await.expect("handshake");
    let of_client = of_client.expect("a client certificate");
    assert_eq!(of_client.common_name, "node-1");
    assert_eq!(of_client.organizations, ["system:nodes"]);
    assert_eq!(of_client.uris, ["hikube://test/engine/node-1"]);
    assert_eq!(of_server.expect("a server certificate").common_name, "store");

    ca.issue_files("client", &subject("node-2")).expect("renew");
    let (of_client, _) = handshake(&server, &client).await.expect("handshake");
    assert_eq!(of_client.expect("a client certificate").common_name, "node-2");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (dir, other) = (
        tempfile::tempdir().expect("dir"),
        tempfile::tempdir().expect("dir"),
    );
    let ca = Authority::open(dir.path(), "test").expect("authority");
    let foreign = Authority::open(other.path(), "other").expect("authority");
    let server_files = ca.issue_files("server", &subject("store")).expect("issue");
    let mut client_files = foreign.issue_files("client", &subject("node-1")).expect("issue");
    client_files.ca = ca.certificate_path();
    let (server, client) = configs(&server_files, &client_files);
    assert!(handshake(&server, &client).await.is_err());
}

#[test]
fn an_authority_is_kept_and_keys_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("dir");
    let first = Authority::open(&dir.path().join("pki"), "test")
        .expect("authority")
        .certificate()
        .to_owned();
    let again = Authority::open(&dir.path().join("pki"), "ignored").expect("authority");
    assert_eq!(first, again.certificate());
    let files = again.issue_files("a", &subject("a")).expect("issue");
    for path in [&files.key, &files.cert, &dir.path().join("pki/ca.key")] {
        assert_eq!(
            std::fs::metadata(path).expect("file").permissions().mode() & 0o777,
            0o600
        );
    }
    assert!(!tls::expires_within(&files.cert, Duration::from_secs(60)));
    assert!(tls::expires_within(&files.cert, Duration::from_secs(7200)));
}
