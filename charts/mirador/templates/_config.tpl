{{/* The configuration of each workload: what the chart knows, and the user's `config` laid over it. */}}

{{/* Lays `over` on `base`, which changes: maps key by key, everything else replaces, null included. */}}
{{- define "mirador.lay" -}}
{{- $base := .base -}}
{{- range $key, $value := .over -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $base $key)) -}}
{{- include "mirador.lay" (dict "base" (get $base $key) "over" $value) -}}
{{- else -}}
{{- $_ := set $base $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a workload gets: its section over the defaults. As YAML, because a template returns text. */}}
{{- define "mirador.workload" -}}
{{- $base := deepCopy .Values.defaults -}}
{{- include "mirador.lay" (dict "base" $base "over" (omit (get .Values .role) "config")) -}}
{{- toYaml $base -}}
{{- end -}}

{{/* The resolver that the user gives a destination, or nothing. */}}
{{- define "mirador.given" -}}
{{- $exporters := default (dict) (get .config "exporters") -}}
{{- $destination := default (dict) (get $exporters .destination) -}}
{{- with get $destination "resolver" -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* The destination `destination` of the configuration, whose owners are the pods of `owners`. A resolver of the user's
     own stands alone, because exactly one may be configured. */}}
{{- define "mirador.destination" -}}
{{- if include "mirador.given" . -}}
{}
{{- else if eq .root.Values.discovery "k8s" -}}
resolver:
  k8s:
    service: {{ printf "%s-%s.%s" (include "mirador.fullname" .root) .owners .root.Release.Namespace }}
    ports: [otlp-grpc]
{{- else -}}
resolver:
  dns:
    hostname: {{ include "mirador.owners" (dict "root" .root "role" .owners) }}
    port: 4317
{{- end -}}
{{- end -}}

{{- define "mirador.config" -}}
{{- $config := (get .Values .role).config -}}
{{- $base := dict -}}
{{- $exporters := dict -}}
{{- $root := . -}}
{{- if has .role (list "agent" "gateway") -}}
{{- $_ := set $base "agent_id" (ternary "${env:K8S_NODE_NAME}" "${env:K8S_POD_NAME}" (eq .role "agent")) -}}
{{- $_ := set $base "steering" (dict "enabled" (and (eq .role "agent") .Values.agent.steering.enabled)) -}}
{{- if and (eq .role "agent") .Values.agent.kubernetesAttributes.enabled -}}
{{- $_ := set $base "processors" (dict "k8sattributes" (dict)) -}}
{{- end -}}
{{- range $destination, $owners := dict "traces" "servicegraph" "red" "spanmetrics" "metrics" "isolationforest" "logs" "logs" -}}
{{- $context := dict "root" $root "config" $config "destination" $destination "owners" $owners -}}
{{- if or (get $root.Values $owners).enabled (include "mirador.given" $context) -}}
{{- $_ := set $exporters $destination (include "mirador.destination" $context | fromYaml) -}}
{{- else -}}
{{- /* A role that is off has no owners: what is sent is refused as not configured. */ -}}
{{- $_ := set $exporters $destination nil -}}
{{- end -}}
{{- end -}}
{{- else if has .role (list "servicegraph" "spanmetrics") -}}
{{- $_ := set $exporters "metrics" (include "mirador.destination" (dict "root" $root "config" $config "destination" "metrics" "owners" "isolationforest") | fromYaml) -}}
{{- end -}}
{{- if $exporters -}}
{{- $_ := set $base "exporters" $exporters -}}
{{- end -}}
{{- include "mirador.lay" (dict "base" $base "over" (deepCopy $config)) -}}
{{- toYaml $base -}}
{{- end -}}
