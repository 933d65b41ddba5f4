//! TLS settings from files: what is refused, what is rotated, what a certificate has to carry.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes `name`.crt and `name`.key, signed by `issuer`, and returns the key's file.
fn issue(folder: &Path, name: &str, issuer: &Issuer) -> ServerTls {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["agent.example".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let file = |end: &str| folder.join(format!("{name}.{end}")).to_str().unwrap().to_owned();
    std::fs::write(file("crt"), certificate.pem()).unwrap();
    std::fs::write(file("key"), key.serialize_pem()).unwrap();
    ServerTls { cert_file: file("crt"), key_file: file("key"), ..ServerTls::default() }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_problem_names_the_key_and_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let good = issue(folder.path(), "good", &authority());
    assert_eq!(good.problems("tls"), Vec::<String>::new());
    let other = issue(folder.path(), "other", &authority());
    let rubbish = folder.path().join("rubbish");
    std::fs::write(&rubbish, "no PEM").unwrap();
    let cases = [
        (ServerTls::default(), "tls.cert_file: is empty"),
        (ServerTls { key_file: String::new(), ..good.clone() }, "tls.key_file: is empty"),
        (ServerTls { cert_file: "/absent.crt".into(), ..good.clone() }, "tls.cert_file: cannot read \"/absent.crt\""),
        (ServerTls { cert_file: text(&rubbish), ..good.clone() }, "holds no certificate"),
        (ServerTls { key_file: text(&rubbish), ..good.clone() }, "holds no private key"),
        (ServerTls { key_file: other.key_file, ..good.clone() }, "does not go with key_file"),
        (ServerTls { client_ca_file: text(&rubbish), ..good }, "tls.client_ca_file: "),
    ];
    for (tls, said) in cases {
        let problems = tls.problems("tls");
        assert!(problems.len() == 1 && problems[0].contains(said), "{said}: {problems:?}");
    }
}

#[test]
fn a_client_needs_both_files_of_its_certificate_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = authority();
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, issuer.pem()).unwrap();
    let own = issue(folder.path(), "client", &issuer);
    let tls = ClientTls { ca_file: text(&ca), ..ClientTls::default() };
    assert_eq!(tls.problems("tls"), Vec::<String>::new());
    let half = ClientTls { cert_file: own.cert_file.clone(), ..tls.clone() };
    assert!(half.problems("tls")[0].starts_with("tls.key_file: is empty"), "{:?}", half.problems("tls"));
    let whole = ClientTls { cert_file: own.cert_file, key_file: own.key_file, ..tls.clone() };
    assert_eq!(whole.problems("tls"), Vec::<String>::new());
    let named = ClientTls { server_name_override: "no name".into(), ..tls };
    assert!(named.problems("tls")[0].contains("no DNS name"), "{:?}", named.problems("tls"));
    let off = ClientTls { insecure: true, ca_file: "/absent".into(), ..ClientTls::default() };
    assert_eq!(off.problems("tls"), Vec::<String>::new());
}

#[test]
fn a_rotated_certificate_is_taken_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = authority();
    let tls = ServerTls { reload_interval: Duration::from_nanos(1), ..issue(folder.path(), "server", &issuer) };
    let acceptor = Acceptor::new(tls.clone()).unwrap();
    let first = acceptor.config();
    assert!(Arc::ptr_eq(&first, &acceptor.config()), "the same files make the same settings");
    issue(folder.path(), "server", &issuer);
    let second = acceptor.config();
    assert!(!Arc::ptr_eq(&first, &second), "new files make new settings");
    std::fs::write(&tls.cert_file, "half a certif").unwrap();
    assert!(Arc::ptr_eq(&second, &acceptor.config()), "a broken file leaves the last good settings");
}

#[test]
fn keys_read_as_in_the_collector_and_unknown_ones_are_refused() {
    let parse = |text: &str| crate::config::parse::<ClientTls>(text, &|_| None).map_err(|error| error.to_string());
    let tls =
        parse("{ca_file: /ca.crt, min_version: '1.3', server_name_override: central, reload_interval: 24h}").unwrap();
    assert_eq!(tls.min_version, MinVersion::V13);
    assert_eq!(tls.reload_interval, Duration::from_secs(86_400));
    assert!(parse("{ca_fil: /ca.crt}").expect_err("unknown").contains("ca_file"));
}

#[test]
fn a_server_name_is_a_name_an_address_or_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, authority().pem()).unwrap();
    let tls = ClientTls { ca_file: text(&ca), ..ClientTls::default() };
    let connector = Connector::new(tls.clone()).unwrap();
    assert_eq!(connector.server_name("central").unwrap().to_str(), "central");
    assert_eq!(connector.server_name("[fd00::1]").unwrap().to_str(), "fd00::1");
    assert!(connector.server_name("a b").is_err());
    let named = Connector::new(ClientTls { server_name_override: "central".into(), ..tls }).unwrap();
    assert_eq!(named.server_name("10.0.0.7").unwrap().to_str(), "central");
}

/// A handshake in memory with a server whose certificate carries `agent.example`.
fn shakes_hands(client: ClientConfig, server: &ServerTls, dialled: &str) -> Result<(), rustls::Error> {
    let dialled = rustls::pki_types::ServerName::try_from(dialled.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(client), dialled)?;
    let mut server = rustls::ServerConnection::new(Acceptor::new(server.clone()).unwrap().config())?;
    while client.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        assert!(!bytes.is_empty(), "the server has nothing more to say");
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn who_dials_addresses_meets_the_name_that_is_asked_for_or_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = authority();
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, issuer.pem()).unwrap();
    let server = issue(folder.path(), "server", &issuer);
    let client = |name: &str, trusted: &Path| {
        let tls = ClientTls { ca_file: text(trusted), server_name_override: name.into(), ..ClientTls::default() };
        tls.fixed_for_addresses().unwrap()
    };
    shakes_hands(client("agent.example", &ca), &server, "10.0.0.7").unwrap();
    for (name, wrong) in [("other.example", "10.0.0.7"), ("", "10.0.0.7")] {
        let error = shakes_hands(client(name, &ca), &server, wrong).unwrap_err().to_string();
        assert!(error.contains("not valid for"), "{name:?}: {error}");
    }
    shakes_hands(client("", &ca), &server, "agent.example").unwrap();
    let other = folder.path().join("other.crt");
    std::fs::write(&other, authority().pem()).unwrap();
    assert!(shakes_hands(client("agent.example", &other), &server, "10.0.0.7").is_err());
    let nameless = ClientTls { ca_file: text(&ca), server_name_override: "no name".into(), ..ClientTls::default() };
    assert_eq!(nameless.fixed_for_addresses().unwrap_err().key, "server_name_override");
}

#[test]
fn a_library_that_names_no_provider_gets_the_one_that_is_decided_however_often() {
    decide_provider();
    decide_provider();
    let decided = rustls::crypto::CryptoProvider::get_default().expect("one is decided");
    assert_eq!(
        format!("{:?}", decided.key_provider),
        format!("{:?}", rustls::crypto::ring::default_provider().key_provider)
    );
}
