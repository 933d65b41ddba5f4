//! What is rendered for every case is what is committed; `cargo xtask chart` writes it.

use anyhow::{Context, Result, ensure};
use mirador_support::backends::controlplane;
use mirador_support::chart::{golden, kept};

use crate::chart;

#[tokio::test]
async fn every_case_renders_what_is_committed() -> Result<()> {
    let default = chart::template(None).await?;
    let mut names = Vec::new();
    for (case, values) in chart::cases()? {
        let path = golden(&case);
        let want = std::fs::read_to_string(&path)
            .with_context(|| format!("{} is missing: run `cargo xtask chart`", path.display()))?;
        let have = kept(values.is_some().then_some(&default), &chart::template(values.as_deref()).await?);
        let differs = want.lines().zip(have.lines()).enumerate().find(|(_, (want, have))| want != have);
        ensure!(
            want == have,
            "{} differs, first at {differs:?}; if that is meant, run `cargo xtask chart` and look at the change",
            path.display()
        );
        names.push(format!("{case}.yaml"));
    }
    for entry in std::fs::read_dir(golden("default").parent().context("a file has a folder")?)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(names.contains(&name), "{name} belongs to no case: delete it");
    }
    Ok(())
}

#[tokio::test]
async fn helm_3_renders_the_same_objects() -> Result<()> {
    for (case, values) in chart::cases()? {
        let sorted = |text: &str| -> Result<Vec<String>> {
            let mut objects: Vec<String> = chart::objects(text)?.iter().map(ToString::to_string).collect();
            objects.sort();
            Ok(objects)
        };
        let four = sorted(&chart::template(values.as_deref()).await?)?;
        let mut arguments = chart::template_arguments(values.as_deref());
        // Helm 3 knows a version of Kubernetes only where there is a cluster to ask.
        arguments.extend(["--kube-version", "1.30.0"].map(str::to_owned));
        let three = sorted(&controlplane::helm3(arguments).await?)?;
        ensure!(four == three, "{case}: Helm 3 renders something else than Helm 4");
    }
    Ok(())
}

#[tokio::test]
async fn lint_finds_nothing_in_any_case() -> Result<()> {
    for (case, values) in chart::cases()? {
        let mut arguments = vec!["lint".to_owned(), "--strict".to_owned(), chart::folder()];
        arguments.extend(values.into_iter().flat_map(|path| ["--values".to_owned(), path.display().to_string()]));
        controlplane::helm(arguments).await.with_context(|| case.clone())?;
    }
    Ok(())
}
