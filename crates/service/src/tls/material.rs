//! From PEM files to rustls settings.
//!
//! Never: keeps a key longer than the settings that use it; guesses which file was meant.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use xxhash_rust::xxh3::Xxh3;

use super::{ALPN, ClientTls, MinVersion, ServerTls, TlsError};

/// A certificate file larger than this is none.
const LARGEST_FILE: u64 = 1 << 20;

/// Settings of a listener and a fingerprint of the files that they were made of.
pub(super) struct Server {
    pub(super) fingerprint: u64,
    pub(super) config: ServerConfig,
}

/// Settings of a client and a fingerprint of the files that they were made of.
pub(super) struct Client {
    pub(super) fingerprint: u64,
    pub(super) config: ClientConfig,
}

struct Files {
    hash: Xxh3,
}

impl Files {
    fn new() -> Self {
        Self { hash: Xxh3::new() }
    }

    fn read(&mut self, key: &'static str, path: &str) -> Result<Vec<u8>, TlsError> {
        let found = |error: std::io::Error| TlsError::new(key, format!("cannot read {path:?}: {error}"));
        let size = std::fs::metadata(path).map_err(found)?.len();
        if size > LARGEST_FILE {
            return Err(TlsError::new(
                key,
                format!("{path:?} has {size} bytes; a PEM file has at most {LARGEST_FILE}"),
            ));
        }
        let bytes = std::fs::read(path).map_err(found)?;
        self.hash.update(&(bytes.len() as u64).to_le_bytes());
        self.hash.update(&bytes);
        Ok(bytes)
    }

    fn certificates(&mut self, key: &'static str, path: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let bytes = self.read(key, path)?;
        let certificates = CertificateDer::pem_slice_iter(&bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| TlsError::new(key, format!("{path:?} is no PEM file: {error}")))?;
        if certificates.is_empty() {
            return Err(TlsError::new(
                key,
                format!("{path:?} holds no certificate; PEM with BEGIN CERTIFICATE is right"),
            ));
        }
        Ok(certificates)
    }

    fn key(&mut self, path: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
        let bytes = self.read("key_file", path)?;
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
            TlsError::new(
                "key_file",
                format!("{path:?} holds no private key ({error}); PEM, PKCS #8, #1 or SEC 1 is right"),
            )
        })
    }

    fn roots(&mut self, key: &'static str, path: &str, roots: &mut RootCertStore) -> Result<(), TlsError> {
        for certificate in self.certificates(key, path)? {
            roots.add(certificate).map_err(|error| {
                TlsError::new(key, format!("{path:?} holds a certificate that cannot sign others: {error}"))
            })?;
        }
        Ok(())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn versions(min: MinVersion) -> Vec<&'static SupportedProtocolVersion> {
    match min {
        MinVersion::V12 => vec![&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::V13 => vec![&rustls::version::TLS13],
    }
}

/// The settings of a listener.
pub(super) fn server(tls: &ServerTls) -> Result<Server, TlsError> {
    for (key, value) in [("cert_file", &tls.cert_file), ("key_file", &tls.key_file)] {
        if value.is_empty() {
            return Err(TlsError::new(key, "is empty; the path of a PEM file is right"));
        }
    }
    let mut files = Files::new();
    let chain = files.certificates("cert_file", &tls.cert_file)?;
    let key = files.key(&tls.key_file)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(tls.min_version))
        .map_err(|error| TlsError::new("min_version", error.to_string()))?;
    let builder = if tls.client_ca_file.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        files.roots("client_ca_file", &tls.client_ca_file, &mut roots)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| TlsError::new("client_ca_file", error.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::new("cert_file", format!("does not go with key_file: {error}")))?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(Server { fingerprint: files.hash.digest(), config })
}

/// The settings of a client, without protocols to choose from.
pub(super) fn client(tls: &ClientTls) -> Result<Client, TlsError> {
    checking(tls, None)
}

/// The settings of a client that knows a server by its address only: a certificate has to carry
/// `server_name_override` where that is set, whatever is dialled.
pub(super) fn client_of_addresses(tls: &ClientTls) -> Result<Client, TlsError> {
    let name = Some(&tls.server_name_override).filter(|name| !name.is_empty());
    checking(tls, name.map(|name| server_name(name)).transpose()?)
}

fn checking(tls: &ClientTls, always: Option<ServerName<'static>>) -> Result<Client, TlsError> {
    let mut files = Files::new();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(tls.min_version))
        .map_err(|error| TlsError::new("min_version", error.to_string()))?;
    if !tls.server_name_override.is_empty() {
        server_name(&tls.server_name_override)?;
    }
    let builder = if tls.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider())))
    } else if let Some(name) = always {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(trusted(tls, &mut files)?), provider())
            .build()
            .map_err(|error| TlsError::new("ca_file", error.to_string()))?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Named { inner, name }))
    } else {
        builder.with_root_certificates(trusted(tls, &mut files)?)
    };
    let config = match (tls.cert_file.is_empty(), tls.key_file.is_empty()) {
        (true, true) => builder.with_no_client_auth(),
        (false, false) => {
            let chain = files.certificates("cert_file", &tls.cert_file)?;
            let key = files.key(&tls.key_file)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| TlsError::new("cert_file", format!("does not go with key_file: {error}")))?
        }
        (true, false) => return Err(TlsError::new("cert_file", "is empty while key_file is set; set both or none")),
        (false, true) => return Err(TlsError::new("key_file", "is empty while cert_file is set; set both or none")),
    };
    Ok(Client { fingerprint: files.hash.digest(), config })
}

/// The settings of a client to which every certificate is wrong.
pub(super) fn trusting_nobody() -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::new("min_version", error.to_string()))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn trusted(tls: &ClientTls, files: &mut Files) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if !tls.ca_file.is_empty() {
        files.roots("ca_file", &tls.ca_file, &mut roots)?;
    }
    if tls.ca_file.is_empty() || tls.include_system_ca_certs_pool {
        let system = rustls_native_certs::load_native_certs();
        // A bundle may hold certificates that no verifier understands; the others serve.
        let (_, _unusable) = roots.add_parsable_certificates(system.certs);
    }
    if roots.is_empty() {
        return Err(TlsError::new("ca_file", "is empty and the system has no certificates; name the file of your CA"));
    }
    Ok(roots)
}

/// The name that a certificate has to carry.
pub(super) fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(bare.to_owned())
        .map_err(|_| TlsError::new("server_name_override", format!("{name:?} is no DNS name and no address")))
}

/// Takes every certificate, and still checks that the peer has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks certificates as usual, for one name instead of the one that is dialled.
#[derive(Debug)]
struct Named {
    inner: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
