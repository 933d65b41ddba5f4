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
     own stands alone, because exactly one may be configured; under which name its owners are certified is the user's
     to say. */}}
{{- define "mirador.destination" -}}
{{- if .root.Values.tls.enabled -}}
tls:
  {{- include "mirador.clientTls" .root | nindent 2 }}
  {{- if not (include "mirador.given" .) }}
  server_name_override: {{ printf "%s-%s.%s.svc" (include "mirador.fullname" .root) .owners .root.Release.Namespace }}
  {{- end }}
{{ end -}}
{{- if include "mirador.given" . -}}
{{- if not .root.Values.tls.enabled -}}
{}
{{- end -}}
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

{{/* How a workload of the context shows and checks certificates when it sends. */}}
{{- define "mirador.clientTls" -}}
ca_file: /etc/mirador-tls/ca.crt
min_version: {{ .Values.tls.minVersion | quote }}
{{- if .Values.tls.clientAuth }}
cert_file: /etc/mirador-tls/tls.crt
key_file: /etc/mirador-tls/tls.key
{{- end }}
{{- end -}}

{{/* How a workload that listens by TLS does; the gateway's senders are not ours to ask for certificates. */}}
{{- define "mirador.serverTls" -}}
cert_file: /etc/mirador-tls/tls.crt
key_file: /etc/mirador-tls/tls.key
min_version: {{ .Values.tls.minVersion | quote }}
{{- if and .Values.tls.clientAuth (ne .role "gateway") }}
client_ca_file: /etc/mirador-tls/ca.crt
{{- end }}
{{- end -}}

{{/* Gives the exporters to stores by `https` the certificates of tls.backends; what the user says of them wins. */}}
{{- define "mirador.backends" -}}
{{- range $name := list "victoriatraces" "otlphttp_traces" "victoriametrics" "prometheusremotewrite" "otlphttp_logs" -}}
{{- $exporter := default (dict) (get $.exporters $name) -}}
{{- if hasPrefix "https://" (toString (get $exporter "endpoint")) -}}
{{- $tls := dict "ca_file" "/etc/mirador-backends/ca.crt" -}}
{{- if not (and (hasKey $exporter "tls") (kindIs "invalid" (get $exporter "tls"))) -}}
{{- include "mirador.lay" (dict "base" $tls "over" (default (dict) (get $exporter "tls"))) -}}
{{- $_ := set $exporter "tls" $tls -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- /* Cassandra's nodes have no `https`: that its `tls` is there says as much. */ -}}
{{- $cassandra := get .exporters "cassandra" -}}
{{- if and (kindIs "map" $cassandra) (kindIs "map" (get (default (dict) $cassandra) "tls")) -}}
{{- $tls := dict "ca_file" "/etc/mirador-backends/ca.crt" -}}
{{- include "mirador.lay" (dict "base" $tls "over" $cassandra.tls) -}}
{{- $_ := set $cassandra "tls" $tls -}}
{{- end -}}
{{- end -}}

{{/* Whether a Job makes Cassandra's tables: "true" or nothing. */}}
{{- define "mirador.makesSchema" -}}
{{- $cassandra := get (default (dict) .Values.logs.config.exporters) "cassandra" -}}
{{- if and .Values.logs.enabled .Values.logs.schemaJob.enabled (kindIs "map" $cassandra) -}}
true
{{- end -}}
{{- end -}}

{{- define "mirador.config" -}}
{{- $config := (get .Values .role).config -}}
{{- $base := dict -}}
{{- $exporters := dict -}}
{{- $root := . -}}
{{- if has .role (list "agent" "gateway") -}}
{{- $_ := set $base "agent_id" (ternary "${env:K8S_NODE_NAME}" "${env:K8S_POD_NAME}" (eq .role "agent")) -}}
{{- $steering := dict "enabled" false -}}
{{- if and (eq .role "agent") .Values.agent.steering.enabled -}}
{{- $steering = dict "enabled" true "addresses" (list "${env:NODE_IP}") -}}
{{- if .Values.agent.steering.pin.enabled -}}
{{- /* One folder for each installation: two may run on one node. */ -}}
{{- $_ := set $steering "pin" (printf "/sys/fs/bpf/mirador-%s-%s" .Release.Namespace .Release.Name) -}}
{{- end -}}
{{- if include "mirador.steeringNames" . -}}
{{- $_ := set $steering "kubernetes" (dict) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $base "steering" $steering -}}
{{- if (get .Values .role).kubernetesAttributes.enabled -}}
{{- /* A gateway's senders are on every node. */ -}}
{{- $pods := ternary (dict) (dict "filter" (dict "node" "") "max_pods" 10000) (eq .role "agent") -}}
{{- $_ := set $base "processors" (dict "k8sattributes" $pods) -}}
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
{{- if include "mirador.listensByTls" . -}}
{{- $protocols := dict -}}
{{- range $protocol := list "grpc" "http" -}}
{{- $_ := set $protocols $protocol (dict "tls" (include "mirador.serverTls" $root | fromYaml)) -}}
{{- end -}}
{{- $_ := set $base "receiver" (dict "protocols" $protocols) -}}
{{- end -}}
{{- if include "mirador.keeps" . -}}
{{- $_ := set $base "state" (dict "directory" "/var/lib/mirador") -}}
{{- end -}}
{{- /* isolationforest may keep its episodes there, and has replicas. */ -}}
{{- $own := get (default (dict) $config.exporters) "cassandra" -}}
{{- if and (has .role (list "logs" "isolationforest")) (kindIs "map" $own) (include "mirador.makesSchema" .) -}}
{{- $_ := set $base "exporters" (dict "cassandra" (dict "manage_schema" "validate")) -}}
{{- end -}}
{{- include "mirador.lay" (dict "base" $base "over" (deepCopy $config)) -}}
{{- if include "mirador.asksStores" . -}}
{{- include "mirador.backends" (dict "exporters" (default (dict) $base.exporters)) -}}
{{- end -}}
{{- toYaml $base -}}
{{- end -}}
