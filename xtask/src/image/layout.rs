//! Packs a root filesystem as an OCI image layout: `oci-layout`, `index.json`, and blobs named by their digests
//! (OCI image specification 1.1: image-layout.md, manifest.md, config.md, layer.md).
//!
//! One layer, files in order of their path, owned by root, with the time 0: the same folder gives the same digests.

use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What the image's configuration says.
pub(super) struct Image<'a> {
    pub(super) name: &'a str,
    pub(super) tag: &'a str,
    pub(super) ports: &'a [u16],
    pub(super) user: u32,
}

/// Writes the layout of `root` into the empty folder `layout` and returns the size of all blobs.
pub(super) fn write(root: &Path, image: &Image<'_>, layout: &Path) -> Result<u64> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let layer = layer(root, &blobs)?;
    let (config, config_size) = blob(&blobs, &json_bytes(&configuration(image, &layer.content)))?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config, config_size),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer.packed, layer.size)],
    });
    let (manifest, manifest_size) = blob(&blobs, &json_bytes(&manifest))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest, manifest_size);
    entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": image.tag,
        // What containerd calls an image that it loads: what the kubelet makes of a name without a registry.
        "io.containerd.image.name": format!("docker.io/library/{}:{}", image.name, image.tag),
    });
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry],
    });
    fs::write(layout.join("index.json"), json_bytes(&index))?;
    fs::write(layout.join("oci-layout"), json_bytes(&json!({"imageLayoutVersion": "1.0.0"})))?;
    Ok(layer.size + config_size + manifest_size)
}

fn configuration(image: &Image<'_>, layer: &str) -> Value {
    let ports: serde_json::Map<String, Value> =
        image.ports.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "User": format!("{0}:{0}", image.user),
            "Entrypoint": [format!("/{}", image.name)],
            "WorkingDir": "/",
            "ExposedPorts": ports,
            "Labels": {
                "org.opencontainers.image.title": image.name,
                "org.opencontainers.image.version": image.tag,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created_by": "cargo xtask image"}],
    })
}

/// The architecture of this build in OCI's words, which are Go's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn json_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        text.extend([byte >> 4, byte & 15].into_iter().filter_map(|digit| char::from_digit(u32::from(digit), 16)));
        text
    })
}

/// Writes a blob under its digest.
fn blob(blobs: &Path, bytes: &[u8]) -> Result<(String, u64)> {
    let digest = hex(&Sha256::digest(bytes));
    fs::write(blobs.join(&digest["sha256:".len()..]), bytes)?;
    Ok((digest, bytes.len() as u64))
}

struct Layer {
    /// Digest of the compressed layer, its blob's name.
    packed: String,
    size: u64,
    /// Digest of the tar inside.
    content: String,
}

/// Passes bytes on and hashes them.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn layer(root: &Path, blobs: &Path) -> Result<Layer> {
    let staged = blobs.join("layer");
    let packed = Hashing { inner: File::create(&staged)?, hash: Sha256::new() };
    let tar = Hashing { inner: GzEncoder::new(packed, Compression::best()), hash: Sha256::new() };
    let mut builder = tar::Builder::new(tar);
    let mut paths = Vec::new();
    collect(root, &mut paths)?;
    paths.sort();
    for path in paths {
        append(&mut builder, root, &path).with_context(|| format!("cannot pack {}", path.display()))?;
    }
    let tar = builder.into_inner()?;
    let content = hex(&tar.hash.finalize());
    let packed = tar.inner.finish()?;
    let digest = hex(&packed.hash.finalize());
    let size = packed.inner.metadata()?.len();
    fs::rename(staged, blobs.join(&digest["sha256:".len()..]))?;
    Ok(Layer { packed: digest, size, content })
}

pub(super) fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        }
        into.push(path);
    }
    Ok(())
}

pub(super) fn append(builder: &mut tar::Builder<impl Write>, root: &Path, path: &Path) -> Result<()> {
    let data = fs::metadata(path)?;
    let mut header = tar::Header::new_ustar();
    header.set_mode(data.permissions().mode() & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let name = path.strip_prefix(root)?;
    if data.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        builder.append_data(&mut header, name, std::io::empty())?;
    } else {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(data.len());
        builder.append_data(&mut header, name, File::open(path)?.take(data.len()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(layout: &Path, digest: &str) -> Vec<u8> {
        let bytes = fs::read(layout.join("blobs/sha256").join(&digest["sha256:".len()..])).unwrap();
        assert_eq!(hex(&Sha256::digest(&bytes)), digest);
        bytes
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    fn image(folder: &Path) -> PathBuf {
        let (root, layout) = (folder.join("root"), folder.join("oci"));
        fs::create_dir_all(root.join("lib")).unwrap();
        fs::write(root.join("program"), "binary").unwrap();
        fs::set_permissions(root.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(root.join("lib/libc.so.6"), "library").unwrap();
        fs::create_dir_all(&layout).unwrap();
        let image = Image { name: "program", tag: "1.2.3", ports: &[4317], user: 10001 };
        assert!(write(&root, &image, &layout).unwrap() > 0);
        layout
    }

    #[test]
    fn a_layout_is_read_back_by_digests_from_the_index_to_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let layout = image(folder.path());
        assert_eq!(parsed(&fs::read(layout.join("oci-layout")).unwrap())["imageLayoutVersion"], "1.0.0");
        let index = parsed(&fs::read(layout.join("index.json")).unwrap());
        let entry = &index["manifests"][0];
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1.2.3");
        let bytes = read(&layout, entry["digest"].as_str().unwrap());
        assert_eq!(entry["size"], bytes.len());
        let manifest = parsed(&bytes);
        let config = parsed(&read(&layout, manifest["config"]["digest"].as_str().unwrap()));
        assert_eq!(config["config"]["User"], "10001:10001");
        assert_eq!(config["config"]["Entrypoint"][0], "/program");
        let packed = read(&layout, manifest["layers"][0]["digest"].as_str().unwrap());
        assert_eq!(manifest["layers"][0]["size"], packed.len());
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut tar).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], hex(&Sha256::digest(&tar)));
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), (header.mode().unwrap(), text));
        }
        assert_eq!(files["program"], (0o755, "binary".to_owned()));
        assert_eq!(files["lib/libc.so.6"].1, "library");
        assert_eq!(files.len(), 3, "{files:?}");
    }

    #[test]
    fn the_same_files_give_the_same_image() {
        let index = || fs::read(image(tempfile::tempdir().unwrap().path()).join("index.json")).unwrap();
        assert_eq!(index(), index());
    }
}
