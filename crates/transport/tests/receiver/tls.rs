//! TLS on both ports: our own sender and a stock HTTP/1.1 exchange over it, who is let in and who is not.

use std::path::Path;
use std::time::Duration;

use mirador_otlp::Signal;
use mirador_otlp::splice::Part;
use mirador_service::health::Health;
use mirador_service::metrics::Registry;
use mirador_service::tls::{ClientTls, Connector, ServerTls};
use mirador_transport::sender::Destination;
use mirador_transport::sender::config::{Config as SenderConfig, ResolverConfig, StaticConfig};
use mirador_transport::{Kind, Refusal};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::payload;
use super::rig::{Rig, config, head, soon, until};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A certificate authority whose own certificate lies in a file.
fn authority(folder: &Path, name: &str) -> (Issuer, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
    let file = folder.join(format!("{name}.crt"));
    std::fs::write(&file, issuer.pem()).expect("the folder takes files");
    (issuer, file.to_str().expect("a plain path").to_owned())
}

/// The files of a certificate for `localhost` and 127.0.0.1: chain, key.
fn issue(folder: &Path, name: &str, issuer: &Issuer) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).expect("names").signed_by(&key, issuer).expect("a certificate");
    let file = |end: &str| folder.join(format!("{name}.{end}")).to_str().expect("a plain path").to_owned();
    std::fs::write(file("crt"), certificate.pem()).expect("the folder takes files");
    std::fs::write(file("key"), key.serialize_pem()).expect("the folder takes files");
    (file("crt"), file("key"))
}

async fn rig(server: ServerTls) -> Rig {
    let mut config = config();
    config.protocols.grpc.tls = Some(server.clone());
    config.protocols.http.tls = Some(server);
    Rig::with(config, 64 << 20).await
}

/// Exports two spans with these settings; a busy machine may take its time for the handshake.
async fn export(rig: &Rig, tls: Option<ClientTls>) -> Result<(), Refusal> {
    export_within(rig, tls, Duration::from_secs(30)).await
}

/// Exports with these settings in vain, until the refusal says `said`.
async fn refused(rig: &Rig, tls: Option<ClientTls>, said: &str) {
    let trying = async {
        loop {
            let refusal =
                export_within(rig, tls.clone(), Duration::from_secs(2)).await.expect_err("nobody was trusted");
            if refusal.message.contains(said) {
                break;
            }
        }
    };
    soon("a refusal that says why", trying).await;
}

/// What our sender hears when it exports two spans with these settings and waits so long.
async fn export_within(rig: &Rig, tls: Option<ClientTls>, patience: Duration) -> Result<(), Refusal> {
    let mut config = SenderConfig {
        resolver: ResolverConfig {
            fixed: Some(StaticConfig { hostnames: vec![rig.grpc.to_string()] }),
            ..ResolverConfig::default()
        },
        tls,
        ..SenderConfig::default()
    };
    config.retry_on_failure.max_elapsed_time = patience;
    let sender = Destination::start("traces", config, &Registry::new(), &Health::new(), None).expect("it is sound");
    let part = Part { owner: 0, bytes: payload::traces(2).into(), items: 2 };
    let owners = sender.owners();
    let sent = sender.send(Kind::Otlp(Signal::Traces), &owners, vec![part], sender.deadline());
    soon("an answer", sent).await.map(drop)
}

#[tokio::test]
async fn a_sender_that_trusts_the_authority_exports_and_others_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let (issuer, ca_file) = authority(folder.path(), "ca");
    let (_, stranger) = authority(folder.path(), "stranger");
    let (cert_file, key_file) = issue(folder.path(), "server", &issuer);
    let rig = rig(ServerTls { cert_file, key_file, ..ServerTls::default() }).await;
    let trusting = |ca_file: &str| ClientTls { ca_file: ca_file.to_owned(), ..ClientTls::default() };
    export(&rig, Some(trusting(&ca_file))).await.expect("the authority is trusted");
    assert_eq!(rig.given().len(), 1);
    for (tls, said) in [
        (Some(trusting(&stranger)), "TLS handshake"),
        (Some(ClientTls { server_name_override: "elsewhere".to_owned(), ..trusting(&ca_file) }), "TLS handshake"),
        (None, ""),
    ] {
        refused(&rig, tls, said).await;
    }
    export(&rig, Some(ClientTls { insecure_skip_verify: true, ..ClientTls::default() })).await.expect("it looks away");
    assert_eq!(rig.given().len(), 1, "nothing came in from those who were refused");
    until("failed handshakes are counted", || rig.closed("tls_handshake") >= 3).await;
}

#[tokio::test]
async fn mutual_tls_lets_in_who_shows_a_certificate_of_the_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let (issuer, ca_file) = authority(folder.path(), "ca");
    let (foreign, _) = authority(folder.path(), "stranger");
    let (cert_file, key_file) = issue(folder.path(), "server", &issuer);
    let server = ServerTls { cert_file, key_file, client_ca_file: ca_file.clone(), ..ServerTls::default() };
    let rig = rig(server).await;
    let bare = ClientTls { ca_file, ..ClientTls::default() };
    let shown = |issuer: &Issuer, name: &str| {
        let (cert_file, key_file) = issue(folder.path(), name, issuer);
        ClientTls { cert_file, key_file, ..bare.clone() }
    };
    // No certificate is shown; nobody knows who signed it.
    refused(&rig, Some(bare.clone()), "").await;
    refused(&rig, Some(shown(&foreign, "foreign")), "").await;
    assert!(rig.given().is_empty());
    export(&rig, Some(shown(&issuer, "client"))).await.expect("the authority signed it");
    assert_eq!(rig.given().len(), 1);
}

/// A receiver with a certificate of an authority in `folder`, and a connection that speaks HTTP/1.1 over TLS to it.
async fn http_1_1(folder: &Path) -> (Rig, TlsStream<TcpStream>) {
    let (issuer, ca_file) = authority(folder, "ca");
    let (cert_file, key_file) = issue(folder, "server", &issuer);
    let rig = rig(ServerTls { cert_file, key_file, ..ServerTls::default() }).await;
    let connector = Connector::new(ClientTls { ca_file, ..ClientTls::default() }).expect("it is sound");
    let mut tls = (*connector.config()).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(rig.http).await.expect("it listens");
    let name = connector.server_name("localhost").expect("a name");
    let stream =
        TlsConnector::from(std::sync::Arc::new(tls)).connect(name, stream).await.expect("the authority is trusted");
    (rig, stream)
}

#[tokio::test]
async fn http_1_1_is_served_over_tls_and_clear_text_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let (rig, mut stream) = http_1_1(folder.path()).await;
    let body = payload::traces(3);
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-protobuf\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    stream.write_all(&body).await.expect("it reads");
    let mut answer = Vec::new();
    soon("the answer", stream.read_to_end(&mut answer)).await.expect("it answers and closes");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let mut clear = TcpStream::connect(rig.http).await.expect("it listens");
    clear.write_all(head.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    // However it ends, nothing that was sent in clear text is answered.
    drop(soon("the end", clear.read_to_end(&mut answer)).await);
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(rig.given().len(), 1);
}

#[tokio::test]
async fn a_record_that_is_damaged_in_a_chunked_body_breaks_the_connection_and_is_no_fault_of_the_chunks() {
    let folder = tempfile::tempdir().expect("a folder");
    let (rig, mut stream) = http_1_1(folder.path()).await;
    let chunked = [("content-type", "application/x-protobuf"), ("transfer-encoding", "chunked")];
    let head = head("POST", "/v1/traces", &chunked) + "\r\n1000\r\nabc";
    stream.write_all(head.as_bytes()).await.expect("it reads");
    until("the request is being received", || rig.count("mirador_receiver_in_flight", &[]) == 1).await;
    // A record of application data that nobody has encrypted, under the encrypted stream.
    let mut record = vec![23, 3, 3, 0, 64];
    record.extend([0; 64]);
    stream.get_mut().0.write_all(&record).await.expect("it reads");
    until("the request is refused", || rig.refused_in_all() == 1).await;
    assert_eq!((rig.refused("client_gone"), rig.refused("transfer_encoding")), (1, 0));
    rig.settled().await;
}
