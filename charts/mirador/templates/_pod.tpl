{{/* The pod of a workload, the same for every role but for what a role cannot do without. */}}

{{- define "mirador.probe" -}}
{{- $probe := dict "httpGet" (dict "path" .path "port" "health") -}}
{{- include "mirador.lay" (dict "base" $probe "over" .fields) -}}
{{- include "mirador.lay" (dict "base" $probe "over" .own) -}}
{{- toYaml $probe -}}
{{- end -}}

{{/* A key in the effective values that is false or 0 is meant so: `default` would not see it. */}}
{{- define "mirador.spread" -}}
{{- $selector := dict "matchLabels" (include "mirador.selectorLabels" . | fromYaml) -}}
{{- $constraints := list -}}
{{- if .w.topologySpreadConstraints -}}
{{- range .w.topologySpreadConstraints -}}
{{- $constraints = append $constraints (merge (dict) . (dict "labelSelector" $selector)) -}}
{{- end -}}
{{- else -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" -}}
{{- $constraints = append $constraints (dict "maxSkew" 1 "topologyKey" . "whenUnsatisfiable" "ScheduleAnyway" "labelSelector" $selector) -}}
{{- end -}}
{{- end -}}
{{- toYaml $constraints -}}
{{- end -}}

{{- define "mirador.securityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- if and (eq .role "agent") .Values.agent.steering.enabled }}
  add: {{ toJson .Values.agent.steering.capabilities }}
runAsUser: 0
runAsNonRoot: false
{{- else }}
runAsUser: 10001
runAsGroup: 10001
runAsNonRoot: true
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "mirador.ports" -}}
{{- $host := and (eq .role "agent") .Values.agent.hostPort.enabled -}}
- name: otlp-grpc
  containerPort: 4317
  {{- if $host }}
  hostPort: {{ .Values.agent.hostPort.grpc }}
  {{- end }}
- name: otlp-http
  containerPort: 4318
  {{- if $host }}
  hostPort: {{ .Values.agent.hostPort.http }}
  {{- end }}
- name: metrics
  containerPort: 8888
- name: health
  containerPort: 13133
{{- end -}}

{{/* The certificates of a role: who neither listens by TLS nor shows itself mounts no key. */}}
{{- define "mirador.certificates" -}}
- name: tls
  secret:
    secretName: {{ default .Values.tls.secretName (get .Values.tls.secretNames .role) }}
    # 0440, for parsers of YAML with another idea of octal numbers.
    defaultMode: 288
    {{- if not (or .Values.tls.clientAuth (include "mirador.listensByTls" .)) }}
    items:
      - {key: ca.crt, path: ca.crt}
    {{- end }}
{{- end -}}

{{- define "mirador.storeCertificates" -}}
{{- $from := .Values.tls.backends -}}
- name: backends
  {{- if eq $from.kind "Secret" }}
  secret:
    secretName: {{ $from.name }}
    # 0440, for parsers of YAML with another idea of octal numbers.
    defaultMode: 288
  {{- else }}
  configMap:
    name: {{ $from.name }}
  {{- end }}
    items:
      - key: {{ $from.key }}
        path: ca.crt
{{- end -}}

{{- define "mirador.podTemplate" -}}
{{- $agent := has .role (list "agent" "gateway") -}}
{{- $steering := and (eq .role "agent") .Values.agent.steering.enabled -}}
metadata:
  labels:
    {{- include "mirador.selectorLabels" . | nindent 4 }}
    app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
    app.kubernetes.io/part-of: mirador
    {{- with .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .w.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "mirador.config" . | sha256sum }}
    kubectl.kubernetes.io/default-container: {{ .role }}
    {{- with .w.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "mirador.serviceAccountName" . }}
  automountServiceAccountToken: {{ not (empty (include "mirador.asksApi" .)) }}
  enableServiceLinks: false
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- if $steering }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- else }}
  securityContext:
    runAsNonRoot: true
    fsGroup: 10001
    seccompProfile:
      type: RuntimeDefault
  {{- end }}
  terminationGracePeriodSeconds: {{ .w.terminationGracePeriodSeconds }}
  {{- with .w.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .w.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .w.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .w.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if ne .role "agent" }}
  topologySpreadConstraints:
    {{- include "mirador.spread" . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .role }}
      image: {{ include "mirador.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [{{ ternary "run" .role $agent }}, --config, /etc/mirador/config.yaml]
      env:
        - name: K8S_NODE_NAME
          valueFrom:
            fieldRef:
              fieldPath: spec.nodeName
        - name: K8S_POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        {{- if $steering }}
        - name: NODE_IP
          valueFrom:
            fieldRef:
              fieldPath: status.hostIP
        {{- end }}
        {{- with .w.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .w.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        {{- include "mirador.ports" . | nindent 8 }}
      startupProbe:
        {{- include "mirador.probe" (dict "path" "/livez" "fields" (dict "periodSeconds" 1 "failureThreshold" 60) "own" .w.startupProbe) | nindent 8 }}
      livenessProbe:
        {{- include "mirador.probe" (dict "path" "/livez" "fields" (dict "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 6) "own" .w.livenessProbe) | nindent 8 }}
      readinessProbe:
        {{- include "mirador.probe" (dict "path" "/readyz" "fields" (dict "periodSeconds" 5 "timeoutSeconds" 3 "failureThreshold" 3) "own" .w.readinessProbe) | nindent 8 }}
      {{- if gt (int .w.preStopSleepSeconds) 0 }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ .w.preStopSleepSeconds }}
      {{- end }}
      {{- with .w.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "mirador.securityContext" . | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        - name: config
          mountPath: /etc/mirador
          readOnly: true
        {{- if $steering }}
        - name: cgroup
          mountPath: /sys/fs/cgroup
          readOnly: true
        {{- if .Values.agent.steering.pin.enabled }}
        - name: bpf
          mountPath: /sys/fs/bpf
        {{- end }}
        {{- end }}
        {{- if .Values.tls.enabled }}
        - name: tls
          mountPath: /etc/mirador-tls
          readOnly: true
        {{- end }}
        {{- if include "mirador.asksStores" . }}
        - name: backends
          mountPath: /etc/mirador-backends
          readOnly: true
        {{- end }}
        {{- if include "mirador.keeps" . }}
        - name: state
          mountPath: /var/lib/mirador
        {{- end }}
        {{- with .w.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "mirador.name" . }}
    {{- if $steering }}
    - name: cgroup
      hostPath:
        path: /sys/fs/cgroup
        type: Directory
    {{- if .Values.agent.steering.pin.enabled }}
    - name: bpf
      hostPath:
        path: {{ .Values.agent.steering.pin.hostPath }}
        type: Directory
    {{- end }}
    {{- end }}
    {{- if .Values.tls.enabled }}
    {{- include "mirador.certificates" . | nindent 4 }}
    {{- end }}
    {{- if include "mirador.asksStores" . }}
    {{- include "mirador.storeCertificates" . | nindent 4 }}
    {{- end }}
    {{- if include "mirador.keeps" . }}
    - name: state
      emptyDir:
        sizeLimit: {{ .w.state.sizeLimit }}
    {{- end }}
    {{- with .w.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
