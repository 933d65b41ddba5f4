//! Every object that the chart renders has Kubernetes' own fields and no others, also where no API server looks.
//!
//! `k8s-openapi` skips what it does not know, so an object is read into its type and written again: what does not come
//! back was not known. The kinds of operators are held against their definitions, which the control plane of these
//! tests enforces as well.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{apps, autoscaling, batch, core, networking, policy, rbac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::chart;

/// Reads an object into its type and writes it again.
fn again<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value> {
    Ok(serde_json::to_value(serde_json::from_value::<T>(object.clone())?)?)
}

/// The object as Kubernetes' own type has it, or nothing when the kind is not one of Kubernetes' own.
fn typed(object: &Value) -> Result<Option<Value>> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    Ok(Some(match (text("apiVersion"), text("kind")) {
        ("v1", "ConfigMap") => again::<core::v1::ConfigMap>(object)?,
        ("v1", "Pod") => again::<core::v1::Pod>(object)?,
        ("v1", "Secret") => again::<core::v1::Secret>(object)?,
        ("v1", "Service") => again::<core::v1::Service>(object)?,
        ("v1", "ServiceAccount") => again::<core::v1::ServiceAccount>(object)?,
        ("apps/v1", "DaemonSet") => again::<apps::v1::DaemonSet>(object)?,
        ("apps/v1", "Deployment") => again::<apps::v1::Deployment>(object)?,
        ("apps/v1", "StatefulSet") => again::<apps::v1::StatefulSet>(object)?,
        ("autoscaling/v2", "HorizontalPodAutoscaler") => again::<autoscaling::v2::HorizontalPodAutoscaler>(object)?,
        ("batch/v1", "Job") => again::<batch::v1::Job>(object)?,
        ("networking.k8s.io/v1", "NetworkPolicy") => again::<networking::v1::NetworkPolicy>(object)?,
        ("policy/v1", "PodDisruptionBudget") => again::<policy::v1::PodDisruptionBudget>(object)?,
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => again::<rbac::v1::ClusterRole>(object)?,
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => again::<rbac::v1::ClusterRoleBinding>(object)?,
        ("rbac.authorization.k8s.io/v1", "Role") => again::<rbac::v1::Role>(object)?,
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => again::<rbac::v1::RoleBinding>(object)?,
        _ => return Ok(None),
    }))
}

/// The places in `object` that are not, or not the same, in `typed`.
fn lost(place: &str, object: &Value, typed: &Value, found: &mut Vec<String>) {
    match (object, typed) {
        (Value::Object(fields), Value::Object(known)) => {
            for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                lost(&format!("{place}.{key}"), value, &known.get(key).cloned().unwrap_or_default(), found);
            }
        }
        (Value::Array(items), Value::Array(known)) if items.len() == known.len() => {
            for (index, (item, known)) in items.iter().zip(known).enumerate() {
                lost(&format!("{place}[{index}]"), item, known, found);
            }
        }
        _ if object == typed => {}
        _ => found.push(place.to_owned()),
    }
}

/// The definitions of the operators' kinds.
fn definitions() -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for file in ["prometheus-operator.yaml", "victoriametrics-operator.yaml"] {
        let path = chart::root().join("tests/kubernetes/crds").join(file);
        found.extend(chart::objects(&std::fs::read_to_string(path)?)?);
    }
    Ok(found)
}

/// The places in `value` that its schema does not know, that have another type, or that it asks for in vain.
fn refused(place: &str, schema: &Value, value: &Value, found: &mut Vec<String>) {
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64(),
        Some("number") => value.is_number(),
        _ => schema["x-kubernetes-int-or-string"] == true && (value.is_i64() || value.is_string()),
    };
    let listed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    if !fits || !listed {
        found.push(place.to_owned());
        return;
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        refused(&format!("{place}[{index}]"), &schema["items"], item, found);
    }
    let Value::Object(fields) = value else { return };
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    found.extend(required.filter(|key| !fields.contains_key(*key)).map(|key| format!("{place}.{key} is missing")));
    for (key, field) in fields {
        let place = format!("{place}.{key}");
        match (&schema["properties"][key], &schema["additionalProperties"]) {
            (Value::Null, Value::Null) => found.push(place),
            (Value::Null, schema) | (schema, _) => refused(&place, schema, field, found),
        }
    }
}

/// What is wrong with an object, by place.
fn problems(object: &Value, definitions: &[Value]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    if let Some(typed) = typed(object)? {
        lost("", object, &typed, &mut found);
        return Ok(found);
    }
    let version = object["apiVersion"].as_str().and_then(|version| version.split_once('/'));
    let Some((group, version)) = version else { bail!("{} {} is no kind", object["apiVersion"], object["kind"]) };
    let defines = |it: &&Value| it["spec"]["group"] == group && it["spec"]["names"]["kind"] == object["kind"];
    let definition = definitions.iter().find(defines);
    let definition = definition.with_context(|| format!("nobody defines {group} {}", object["kind"]))?;
    let mut versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let served = versions.find(|it| it["name"] == version).with_context(|| format!("{version} is not served"))?;
    let spec = &served["schema"]["openAPIV3Schema"]["properties"]["spec"];
    refused(".spec", spec, &object["spec"], &mut found);
    let metadata = again::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>(&object["metadata"])?;
    lost(".metadata", &object["metadata"], &metadata, &mut found);
    let others = object.as_object().into_iter().flat_map(|fields| fields.keys());
    found.extend(others.filter(|key| !["apiVersion", "kind", "metadata", "spec"].contains(&key.as_str())).cloned());
    Ok(found)
}

#[tokio::test]
async fn every_object_of_every_case_has_only_fields_of_its_kind() -> Result<()> {
    let definitions = definitions()?;
    let mut kinds = BTreeSet::new();
    for (case, values) in chart::cases()? {
        for object in chart::objects(&chart::template(values.as_deref()).await?)? {
            let place = format!("{case}: {} {}", object["kind"], chart::name(&object));
            let found = problems(&object, &definitions).with_context(|| place.clone())?;
            ensure!(found.is_empty(), "{place}: {found:?}");
            kinds.insert(object["kind"].as_str().unwrap_or_default().to_owned());
        }
    }
    for kind in [
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Job",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PodMonitor",
        "PrometheusRule",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
        "StatefulSet",
        "VMRule",
        "VMServiceScrape",
    ] {
        ensure!(kinds.contains(kind), "no case renders a {kind}");
    }
    Ok(())
}

/// A field of `object` at a place is set to `value`.
fn with(object: &Value, place: &str, value: Value) -> Value {
    let mut object = object.clone();
    if let Some(at) = object.pointer_mut(place).and_then(Value::as_object_mut) {
        at.insert("targetPrt".to_owned(), value);
    }
    object
}

#[tokio::test]
async fn a_field_that_a_kind_does_not_have_is_found_at_any_depth() -> Result<()> {
    let definitions = definitions()?;
    let cases = chart::cases()?;
    let mut checked = 0;
    for (case, kind, places) in [
        ("default", "DaemonSet", &["", "/metadata", "/spec/template/spec/containers/0/livenessProbe/httpGet"][..]),
        ("default", "Service", &["/spec/ports/0"]),
        ("default", "StatefulSet", &["/spec/template/spec/volumes/0", "/spec"]),
        ("monitoring-servicemonitor", "ServiceMonitor", &["", "/metadata", "/spec/endpoints/0", "/spec/selector"]),
        ("monitoring-podmonitor", "PodMonitor", &["/spec/podMetricsEndpoints/0"]),
        ("monitoring-servicemonitor", "PrometheusRule", &["/spec/groups/0/rules/0"]),
        ("monitoring-victoriametrics", "VMServiceScrape", &["", "/spec", "/spec/endpoints/0", "/spec/selector"]),
        ("monitoring-victoriametrics", "VMRule", &["/spec/groups/0", "/spec/groups/0/rules/0"]),
    ] {
        let objects = chart::objects(&chart::template(cases[case].as_deref()).await?)?;
        let object = chart::of_kind(&objects, kind).next().with_context(|| format!("{case} has no {kind}"))?;
        for place in places {
            let wrong = with(object, place, json!(1));
            ensure!(wrong != *object, "{kind} has nothing at {place}");
            let found = problems(&wrong, &definitions)?;
            ensure!(found.len() == 1 && found[0].ends_with("targetPrt"), "{kind} {place}: {found:?}");
            checked += 1;
        }
    }
    ensure!(checked == 18, "{checked}");
    let service = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": "many"}]}});
    ensure!(problems(&service, &definitions).is_err(), "a port is a number");
    let rule = json!({"apiVersion": "operator.victoriametrics.com/v1beta1", "kind": "VMRule", "metadata": {},
        "spec": {"groups": [{"rules": [{"expr": 7}]}]}});
    let found = problems(&rule, &definitions)?;
    ensure!(found == [".spec.groups[0].name is missing", ".spec.groups[0].rules[0].expr"], "{found:?}");
    Ok(())
}
