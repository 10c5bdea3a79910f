{{- /* Written by `python3 scripts/fix.py` from the table of settings. */}}

{{- /* Names of variables whose values are secrets, or may contain one. */}}
{{- define "anthropic-proxy.secretNames" -}}
^(OPENAI_API_KEY|GEMINI_API_KEY|OLLAMA_API_KEY|GROQ_API_KEY|MOONSHOT_API_KEY|XAI_API_KEY|ANTHROPIC_API_KEY|AWS_BEARER_TOKEN_BEDROCK|ANTHROPIC_FOUNDRY_API_KEY|PROXY_API_KEY|ADMIN_API_KEY|MONITOR_API_KEY|SCIM_TOKEN|OIDC_CLIENT_SECRET|OIDC_CLIENT_KEY|SIGN_IN_SECRET|OTEL_EXPORTER_OTLP_HEADERS|DATABASE_URL|REDIS_URL)$|_(?:KEY|TOKEN|SECRET|PASSWORD|HEADERS|BEARER_TOKEN_[A-Z]+)$
{{- end }}

{{- /* Values that are or contain a secret, whatever their variable is. */}}
{{- define "anthropic-proxy.secretValues" -}}
^(sk\-|gsk_|xai\-|AIza|ya29\.|eyJ|hf_|AKIA|csk\-|nvapi\-|ghp_|sk_|rk_|rk\-|pk_|pk\-)|://[^/?#\s]*@|[?&][^=&#?\s]*(?i:pass|pwd|secret|token|key)[^=&#?\s]*=|-----BEGIN |"private_key"
{{- end }}

{{- /* Fields of anthropic-proxy.toml with a text that is a secret itself. */}}
{{- define "anthropic-proxy.secretFields" -}}
\b(?:[A-Za-z0-9_-]*[_-])?(?:(?i:pass(?:word|wd|phrase)|pwd|secret|authorization|credentials?|cookie|jwt|(?:api|access|auth|private|secret|signing|subscription|bearer)[-_]?(?:keys?|tokens?))|[A-Z0-9_]+_(?:KEY|TOKEN|SECRET|PASSWORD|HEADERS|BEARER_TOKEN_[A-Z]+))["']?[ \t]*=[ \t]*(?:"[^"\n]|'[^'\n]|\"""|''')
{{- end }}

{{- /* Texts in anthropic-proxy.toml that are or contain a secret, whatever their field is. */}}
{{- define "anthropic-proxy.secretTexts" -}}
(?:^|[\s\"'=,\[])(?:sk\-|gsk_|xai\-|AIza|ya29\.|eyJ|hf_|AKIA|csk\-|nvapi\-|ghp_|sk_|rk_|rk\-|pk_|pk\-)[A-Za-z0-9_.-]{16,}(?:$|[\s\"',\]])|[\"'][a-z0-9+]+://[^/?#\s\[\](){}\\\"']*@|[\"'][a-z0-9+]+://[^\s\"']*[?&][^=&#?\s]*(?i:pass|pwd|secret|token|key)[^=&#?\s]*=|-----BEGIN [A-Z ]+-----(?:\s|\\[nr])+[A-Za-z0-9+/=]{16}
{{- end }}
