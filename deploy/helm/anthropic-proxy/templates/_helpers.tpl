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
{{- range $name, $value := merge (dict) .Values.settings $defaults $ledger (ternary $files dict (ne .Values.tlsSecretName "")) (ternary $folder dict (ne (include "anthropic-proxy.configuration" .) "")) }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{- /* Name of the ConfigMap with anthropic-proxy.toml. "": there is none. */}}
{{- define "anthropic-proxy.configuration" -}}
{{ if .Values.configurationMapName }}{{ .Values.configurationMapName }}{{ else if .Values.configuration }}{{ include "anthropic-proxy.name" . }}-file{{ end }}
{{- end }}

{{- /* Largest number of pods, apart from those that are replaced. */}}
{{- define "anthropic-proxy.pods" -}}
{{ if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.maxReplicas }}{{ else }}{{ int .Values.replicas }}{{ end }}
{{- end }}

{{- /* "true": all pods share limits by Redis. */}}
{{- define "anthropic-proxy.sharesLimits" -}}
{{- $names := list }}
{{- range .Values.extraEnv }}{{ $names = append $names .name }}{{ end }}
{{- or .Values.redis (has "REDIS_URL" $names) }}
{{- end }}

{{- /* Name of the setting with limits that pods have to share. "": there is none. */}}
{{- define "anthropic-proxy.limits" -}}
{{- $values := list .Values.settings.VIRTUAL_KEYS }}
{{- range .Values.extraEnv }}{{ if eq .name "VIRTUAL_KEYS" }}{{ $values = append $values .value }}{{ end }}{{ end }}
{{- $isOn := false }}
{{- range $values }}{{ if has (toString . | trim | lower) (list "true" "1" "yes" "on") }}{{ $isOn = true }}{{ end }}{{ end }}
{{- if $isOn }}VIRTUAL_KEYS{{ else if regexMatch `(?m)^[^#\n]*\brequests_per_minute\b` .Values.configuration }}requests_per_minute{{ end }}
{{- end }}

{{- /* Rules between values, and secrets at a place that is not secret. */}}
{{- define "anthropic-proxy.check" -}}
{{- if and .Values.configuration .Values.configurationMapName }}
{{- fail "configuration and configurationMapName exclude each other: set one of them" }}
{{- end }}
{{- if and .Values.ingress.enabled .Values.httpRoute.enabled }}
{{- fail "ingress.enabled and httpRoute.enabled exclude each other: set one of them" }}
{{- end }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas (%d) is larger than autoscaling.maxReplicas (%d)" (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}
{{- end }}
{{- $limits := include "anthropic-proxy.limits" . }}
{{- $pods := int (include "anthropic-proxy.pods" .) }}
{{- if and $limits (gt $pods 1) (ne (include "anthropic-proxy.sharesLimits" .) "true") }}
{{- fail (printf "%s has limits that up to %d pods share by Redis only: set redis to true and put REDIS_URL into the Secret %q, or use one pod (autoscaling.enabled false, replicas 1)" $limits $pods .Values.secretName) }}
{{- end }}
{{- $names := include "anthropic-proxy.secretNames" . }}
{{- $values := include "anthropic-proxy.secretValues" . }}
{{- $referenced := regexFindAll "\\benv[\"']?[ \t]*=[ \t]*[\"'][A-Za-z0-9_]+" .Values.configuration -1 | join " " }}
{{- range $name, $value := .Values.settings }}
{{- if or (regexMatch $names $name) (regexMatch (printf "[\"']%s\\b" $name) $referenced) }}
{{- fail (printf "settings.%s is a secret, and settings are in a ConfigMap: put it into the Secret %q" $name $.Values.secretName) }}
{{- end }}
{{- if regexMatch $values (toString $value) }}
{{- fail (printf "settings.%s contains a key or password, and settings are in a ConfigMap: put it into the Secret %q" $name $.Values.secretName) }}
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if and (hasKey . "value") (or (regexMatch $names .name) (regexMatch (printf "[\"']%s\\b" .name) $referenced) (regexMatch $values (toString .value))) }}
{{- fail (printf "extraEnv has the secret %s as a plain value: put it into the Secret %q, or use valueFrom" .name $.Values.secretName) }}
{{- end }}
{{- end }}
{{- $file := regexReplaceAll "(?m)^[ \t]*#.*$" .Values.configuration "" }}
{{- range regexFindAll (include "anthropic-proxy.secretFields" .) $file -1 }}
{{- $field := regexFind "[A-Za-z0-9_-]+[\"']?[ \t]*=" . | regexFind "[A-Za-z0-9_-]+" }}
{{- fail (printf "configuration has a text as %s, and it is in a ConfigMap: put it into the Secret %q, and write { env = \"NAME\" } in its place" $field $.Values.secretName) }}
{{- end }}
{{- if regexMatch (include "anthropic-proxy.secretTexts" .) $file }}
{{- fail (printf "configuration contains a key or password, and it is in a ConfigMap: put it into the Secret %q, and write { env = \"NAME\" } in its place" .Values.secretName) }}
{{- end }}
{{- end }}
