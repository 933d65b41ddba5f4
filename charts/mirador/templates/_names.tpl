{{/* Names and labels. A workload's context is the root context with `role`, `kind` and `w` (its effective values). */}}

{{- define "mirador.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mirador.name" -}}
{{- printf "%s-%s" (include "mirador.fullname" .) .role -}}
{{- end -}}

{{- define "mirador.serviceAccountName" -}}
{{- $account := .w.serviceAccount -}}
{{- if $account.create -}}
{{- default (include "mirador.name" .) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{- define "mirador.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- with .role }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "mirador.labels" -}}
{{ include "mirador.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mirador
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object: `name` may be given in the context, and `cluster` for one that is in no namespace. */}}
{{- define "mirador.metadata" -}}
name: {{ default (include "mirador.name" .) .name }}
{{- if not .cluster }}
namespace: {{ .Release.Namespace }}
{{- end }}
labels:
  {{- include "mirador.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $annotations := merge (dict) (default (dict) .annotations) .Values.commonAnnotations }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "mirador.image" -}}
{{- $image := ternary .Values.image.agent .Values.image.central (has .role (list "agent" "gateway" "test")) -}}
{{- $repository := $image.repository -}}
{{- with .Values.image.registry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The name under which DNS lists a role's ready pods; the last dot spares the search domains. */}}
{{- define "mirador.owners" -}}
{{- printf "%s-%s.%s.svc.%s." (include "mirador.fullname" .root) .role .root.Release.Namespace .root.Values.clusterDomain -}}
{{- end -}}

{{/* Whether a role takes OTLP by TLS: "true" or nothing. */}}
{{- define "mirador.listensByTls" -}}
{{- if and .Values.tls.enabled (or (not (has .role (list "agent" "gateway"))) (and (eq .role "gateway") .Values.tls.gateway)) -}}
true
{{- end -}}
{{- end -}}

{{/* Whether a role checks the stores' certificates by tls.backends: "true" or nothing. */}}
{{- define "mirador.asksStores" -}}
{{- if and .Values.tls.backends.name (has .role (list "servicegraph" "isolationforest" "logs")) -}}
true
{{- end -}}
{{- end -}}

{{/* Whether a role keeps state over a restart of its container: "true" or nothing. */}}
{{- define "mirador.keeps" -}}
{{- if dig "state" "enabled" false (get .Values .role) -}}
true
{{- end -}}
{{- end -}}

{{/* The kinds of objects that a role reads in the whole cluster for the attributes of pods, as a list; namespaces and
     nodes only where a rule of the configuration asks for them. */}}
{{- define "mirador.attributesRead" -}}
{{- $kinds := list -}}
{{- if dig "kubernetesAttributes" "enabled" false (get .Values .role) -}}
{{- $processors := default (dict) (get (include "mirador.config" . | fromYaml) "processors") -}}
{{- if kindIs "map" (get $processors "k8sattributes") -}}
{{- $kinds = append $kinds "pods" -}}
{{- $extract := default (dict) (get (get $processors "k8sattributes") "extract") -}}
{{- range concat (default (list) (get $extract "labels")) (default (list) (get $extract "annotations")) -}}
{{- $kind := get (dict "namespace" "namespaces" "node" "nodes") (default "pod" (get . "from")) -}}
{{- if $kind -}}
{{- $kinds = append $kinds $kind -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml (uniq $kinds) -}}
{{- end -}}

{{/* Whether a role asks the API server: "true" or nothing. */}}
{{- define "mirador.asksApi" -}}
{{- $finds := and (eq .Values.discovery "k8s") (has .role (list "agent" "gateway" "servicegraph" "spanmetrics")) -}}
{{- $steers := and (eq .role "agent") (include "mirador.steeringNames" .) -}}
{{- if or $finds $steers (include "mirador.attributesRead" . | fromYamlArray) -}}
true
{{- end -}}
{{- end -}}
