{{- define "anthropic-proxy.name" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) }}
{{- $name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "anthropic-proxy.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "anthropic-proxy.labels" -}}
{{ include "anthropic-proxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "anthropic-proxy.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "anthropic-proxy.scheme" -}}
{{ if .Values.tlsSecretName }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{- /* Settings of the server as YAML. The image permits clients without a key; here the server does not start without one. */}}
{{- define "anthropic-proxy.settings" -}}
{{- $files := dict "TLS_CERT_FILE" "/etc/anthropic-proxy/tls/tls.crt" "TLS_KEY_FILE" "/etc/anthropic-proxy/tls/tls.key" }}
{{- $folder := dict "ANTHROPIC_PROXY_CONFIG" "/etc/anthropic-proxy/config" }}
{{- $defaults := dict "ALLOW_UNAUTHENTICATED" "false" "DRAIN_DELAY" .Values.drainDelaySeconds "STOP_TIMEOUT" .Values.stopTimeoutSeconds }}
{{- $ledger := ternary dict (dict "DATABASE_URL" "off") .Values.ledger }}
{{- range $name, $value := merge (dict) .Values.settings $defaults $ledger (ternary $files dict (ne .Values.tlsSecretName "")) (ternary $folder dict (ne .Values.configuration "")) }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
