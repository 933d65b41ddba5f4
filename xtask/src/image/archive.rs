//! An OCI image layout as one file, as `docker save` writes it: a tar of the layout, in order of path, with the time 0.
//!
//! The layout's index says the image's name, so whoever loads the file knows it.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::layout;

/// The archive's name in an image's folder.
pub(super) const FILE: &str = "image.tar";

/// Packs the folder `layout` to the file `to`.
pub(super) fn write(layout: &Path, to: &Path) -> Result<()> {
    let mut paths = Vec::new();
    layout::collect(layout, &mut paths)?;
    paths.sort();
    let file = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut builder = tar::Builder::new(BufWriter::new(file));
    for path in paths {
        layout::append(&mut builder, layout, &path).with_context(|| format!("cannot pack {}", path.display()))?;
    }
    builder.into_inner()?.into_inner().context("the archive cannot be written")?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use serde_json::Value;

    use super::super::layout::Image;
    use super::*;

    #[test]
    fn an_archive_holds_the_layout_and_names_its_image() {
        let folder = tempfile::tempdir().unwrap();
        let (root, oci, tar) = (folder.path().join("root"), folder.path().join("oci"), folder.path().join(FILE));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(&oci).unwrap();
        std::fs::write(root.join("program"), "binary").unwrap();
        let image = Image { name: "program", tag: "1.2.3", ports: &[], user: 10001 };
        layout::write(&root, &image, &oci).unwrap();
        write(&oci, &tar).unwrap();
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(File::open(&tar).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let annotations = &index["manifests"][0]["annotations"];
        assert_eq!(annotations["io.containerd.image.name"], "docker.io/library/program:1.2.3");
        let digest = index["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
        assert!(files.contains_key(&format!("blobs/{digest}")), "{:?}", files.keys());
        assert!(files.contains_key("oci-layout"));
    }
}
