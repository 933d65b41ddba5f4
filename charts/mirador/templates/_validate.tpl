{{/* What the schema cannot say: combinations that would lose data or make wrong numbers, each with its reason. */}}

{{- define "mirador.validate" -}}
{{- range $role := list "servicegraph" "spanmetrics" -}}
{{- $values := get $.Values $role -}}
{{- if and $values.enabled (gt (int $values.replicaCount) 1) -}}
{{- fail (printf "%s.replicaCount is %d: it must be 1. A cumulative series has one writer; two replicas would write the same series with different numbers. Set it to 1 and give %s more CPU and memory by %s.resources instead." $role (int $values.replicaCount) $role $role) -}}
{{- end -}}
{{- if dig "autoscaling" "enabled" false $values -}}
{{- fail (printf "%s.autoscaling.enabled is true: it must be false, because %s has one writer per series and so one replica." $role $role) -}}
{{- end -}}
{{- if and $values.enabled (not $.Values.isolationforest.enabled) (not (include "mirador.given" (dict "config" $values.config "destination" "metrics"))) -}}
{{- fail (printf "%s.enabled is true and isolationforest.enabled is false: the metrics of %s have nowhere to go. Enable isolationforest, or name its owners in %s.config.exporters.metrics.resolver." $role $role $role) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.agent.enabled (dig "autoscaling" "enabled" false .Values.agent) -}}
{{- fail "agent.autoscaling.enabled is true: it must be false, because there is one agent on each node." -}}
{{- end -}}
{{- if and .Values.agent.steering.enabled .Values.agent.hostPort.enabled -}}
{{- fail "agent.hostPort.enabled is true while agent.steering.enabled is: with steering the agent is in the host's network and listens on the node's ports 4317 and 4318 already. Set agent.hostPort.enabled: false." -}}
{{- end -}}
{{- $cassandra := get (default (dict) .Values.logs.config.exporters) "cassandra" -}}
{{- $scaled := or (gt (int .Values.logs.replicaCount) 1) (dig "autoscaling" "enabled" .Values.defaults.autoscaling.enabled .Values.logs) -}}
{{- $job := include "mirador.makesSchema" . -}}
{{- if and $job (eq (dig "manage_schema" "" $cassandra) "create") -}}
{{- fail "logs.schemaJob.enabled is true while logs.config.exporters.cassandra.manage_schema is create: only one process may create the schema. Leave manage_schema out, or set logs.schemaJob.enabled: false." -}}
{{- end -}}
{{- if and .Values.logs.enabled $cassandra $scaled (not $job) (eq (dig "manage_schema" "create" $cassandra) "create") -}}
{{- fail "logs.replicaCount is above 1 (or logs.autoscaling is on) while logs.config.exporters.cassandra.manage_schema is create: only one process may create the schema. Set logs.schemaJob.enabled: true, or have an administrator create it and set manage_schema: validate." -}}
{{- end -}}
{{- if not (or .Values.agent.enabled .Values.gateway.enabled .Values.servicegraph.enabled .Values.spanmetrics.enabled .Values.isolationforest.enabled .Values.logs.enabled) -}}
{{- fail "nothing is enabled: set enabled: true for at least one of agent, gateway, servicegraph, spanmetrics, isolationforest, logs." -}}
{{- end -}}
{{- end -}}
