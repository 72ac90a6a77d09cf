{{- /* Short enough for the longest suffix that a template appends. */}}
{{- define "latchkey.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "latchkey.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* Distinguishes the serving pods from all others, including the migration's. Must never change. */}}
{{- define "latchkey.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "latchkey.migrationSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: migration
{{- end }}

{{- define "latchkey.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "latchkey.port" -}}
{{ regexFind "[0-9]+$" . }}
{{- end }}

{{- /* A duration in whole seconds, rounded up. The schema guarantees a single number without a leading zero, which Helm
would read as octal. */}}
{{- define "latchkey.seconds" -}}
{{- $number := regexFind "^[0-9]+" . | int }}
{{- if hasSuffix "ms" . }}{{ div (add $number 999) 1000 }}
{{- else if hasSuffix "s" . }}{{ $number }}
{{- else if hasSuffix "m" . }}{{ mul $number 60 }}
{{- else }}{{ fail (printf "%s: is not a duration in ms, s or m" .) }}
{{- end }}
{{- end }}

{{- /* The port of a URL. */}}
{{- define "latchkey.endpointPort" -}}
{{- $authority := regexReplaceAll "^https?://([^/?#]*).*$" . "${1}" }}
{{- regexFind ":[0-9]+$" $authority | trimPrefix ":" | default (hasPrefix "https:" . | ternary "443" "80") }}
{{- end }}

{{- /* Checks that a schema cannot express, or for which its message would not help. */}}
{{- define "latchkey.check" -}}
{{- if not .Values.database.url.secret }}
{{- fail "database.url.secret is empty: name a Secret that holds the URL of the PostgreSQL database, postgres://user:password@host:port/database, under the key that database.url.key names" }}
{{- end }}
{{- if ne (empty .Values.nats.tls.cert.secret) (empty .Values.nats.tls.key.secret) }}
{{- fail "nats.tls.cert and nats.tls.key belong together: name the Secret of both, or of neither" }}
{{- end }}
{{- if and (not .Values.nats.url.secret) (or .Values.nats.credentials.secret .Values.nats.tls.ca.secret .Values.nats.tls.cert.secret) }}
{{- fail "nats.url.secret is empty, but other parts of nats are set: without the URL there is no subscriber" }}
{{- end }}
{{- $name := include "latchkey.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "the Service would be called %s, which Kubernetes refuses: it must begin with a letter and have no dots; choose another name for the release, or set fullnameOverride" $name) }}
{{- end }}
{{- $grpc := include "latchkey.port" .Values.config.grpc_addr | int }}
{{- $http := include "latchkey.port" .Values.config.http_addr | int }}
{{- $admin := include "latchkey.port" .Values.config.admin_addr | int }}
{{- range $setting, $port := dict "grpc_addr" $grpc "http_addr" $http "admin_addr" $admin }}
{{- if or (lt $port 1024) (gt $port 65535) }}
{{- fail (printf "config.%s has the port %d: must be 1024 to 65535, because the container does not run as root" $setting $port) }}
{{- end }}
{{- end }}
{{- if eq $grpc $http }}
{{- fail (printf "config.grpc_addr and config.http_addr have the same port, %d: each needs its own" $grpc) }}
{{- end }}
{{- if or (eq $grpc $admin) (eq $http $admin) }}
{{- fail (printf "config.admin_addr has the same port as another address, %d: each needs its own" $admin) }}
{{- end }}
{{- $service := .Values.service }}
{{- if eq (int $service.grpcPort) (int $service.httpPort) }}
{{- fail (printf "service.grpcPort and service.httpPort are the same, %d: each needs its own" (int $service.grpcPort)) }}
{{- end }}
{{- if or (eq (int $service.adminPort) (int $service.httpPort)) (eq (int $service.adminPort) (int $service.grpcPort)) }}
{{- fail (printf "service.adminPort is the same as another port, %d: each needs its own" (int $service.adminPort)) }}
{{- end }}
{{- if ne (empty .Values.tls.cert.secret) (empty .Values.tls.key.secret) }}
{{- fail "tls.cert and tls.key belong together: name the Secret of both, or of neither" }}
{{- end }}
{{- if and .Values.tls.clientCa.secret (not .Values.tls.cert.secret) }}
{{- fail "tls.clientCa is set, but tls.cert is not: client certificates need TLS" }}
{{- end }}
{{- if and (not .Values.config.insecure) (or (not .Values.tls.cert.secret) (not .Values.callers.secret)) }}
{{- fail "tls.cert.secret, tls.key.secret and callers.secret are needed: name the Secrets of the certificate and of the callers file; or set config.insecure if something else encrypts connections and authenticates callers" }}
{{- end }}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) }}
{{- fail "tls.certManager.issuerRef.name is empty: name the issuer of the certificate" }}
{{- end }}
{{- if and .Values.tracing.endpoint .Values.networkPolicy.enabled }}
{{- $port := include "latchkey.endpointPort" .Values.tracing.endpoint | int }}
{{- if ne $port (int .Values.networkPolicy.otlpPort) }}
{{- fail (printf "tracing.endpoint goes to port %d, and networkPolicy.otlpPort lets the pods out to %d: make them the same. If the collector's pods listen on another port than their Service, allow that port in networkPolicy.extraEgress" $port (int .Values.networkPolicy.otlpPort)) }}
{{- end }}
{{- end }}
{{- if lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas) }}
{{- fail "autoscaling.maxReplicas is below autoscaling.minReplicas" }}
{{- end }}
{{- end }}

{{- /* The settings as environment variables. Helm reads large numbers as floats, and would print them with an
exponent. */}}
{{- define "latchkey.configEnv" -}}
{{- range $name, $value := .Values.config }}
- name: LATCHKEY_{{ upper $name }}
  value: {{ kindIs "float64" $value | ternary (toString (int64 $value)) (toString $value) | quote }}
{{- end }}
- name: LATCHKEY_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.url.secret }}
      key: {{ .Values.database.url.key }}
{{- end }}

{{- /* The files mounted from Secrets: the name in /etc/latchkey, the value that refers to the Secret, and the setting
that gets the path, if there is one. */}}
{{- define "latchkey.files" -}}
{{- $nats := .Values.nats }}
{{- $files := list
  (dict "path" "tls.crt" "from" .Values.tls.cert "setting" "TLS_CERT")
  (dict "path" "tls.key" "from" .Values.tls.key "setting" "TLS_KEY")
  (dict "path" "client-ca.crt" "from" .Values.tls.clientCa "setting" "TLS_CLIENT_CA")
  (dict "path" "callers.toml" "from" .Values.callers "setting" "CALLERS")
  (dict "path" "keyring.toml" "from" .Values.keyRing "setting" "KEY_RING")
  (dict "path" "nats.creds" "from" $nats.credentials "setting" "NATS_CREDENTIALS")
  (dict "path" "nats-ca.crt" "from" $nats.tls.ca "setting" "NATS_TLS_CA")
  (dict "path" "nats.crt" "from" $nats.tls.cert "setting" "NATS_TLS_CERT")
  (dict "path" "nats.key" "from" $nats.tls.key "setting" "NATS_TLS_KEY")
  (dict "path" "database-ca.crt" "from" .Values.database.ca "setting" "")
}}
{{- $wanted := list }}
{{- range $files }}
{{- if .from.secret }}
{{- $wanted = append $wanted . }}
{{- end }}
{{- end }}
{{- dict "files" $wanted | toJson }}
{{- end }}

{{- /* One volume for a list of these files. 288 is 0440: readable only by the pod's own user and group. */}}
{{- define "latchkey.filesVolume" -}}
- name: secrets
  projected:
    defaultMode: 288
    sources:
      {{- range . }}
      - secret:
          name: {{ .from.secret }}
          items:
            - key: {{ .from.key }}
              path: {{ .path }}
      {{- end }}
{{- end }}

{{- define "latchkey.filesMount" -}}
- name: secrets
  mountPath: /etc/latchkey
  readOnly: true
{{- end }}

{{- /* An egress rule for one port, from a dict with "to" and "port". */}}
{{- define "latchkey.egress" -}}
- ports:
    - port: {{ .port }}
      protocol: TCP
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "latchkey.dnsEgress" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
  {{- with .Values.networkPolicy.dnsTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
