"""The template of the Helm chart by which it recognizes secrets among plain values, from the table of settings."""

import re

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings.provider_calls import SECRET_WORDS
from anthropic_proxy.gateway.settings.table import list_secret_variables
from anthropic_proxy.gateway.settings.values import SECRET_NAME
from anthropic_proxy.secrets import KEY_BEGINNINGS
from tests.support.paths import ROOT

TEMPLATE = ROOT / "deploy/helm/anthropic-proxy/templates/_secrets.tpl"
_VALUES = (
    r"://[^/?#\s]*@",
    r"[?&][^=&#?\s]*(?i:pass|pwd|secret|token|key)[^=&#?\s]*=",
    r"-----BEGIN ",
    r'"private_key"',
)
"""Passwords in addresses, and keys in PEM or JSON form. The expressions are those of Go, which has no lookbehind."""
_TEXT = r"""["']?[ \t]*=[ \t]*(?:"[^"\n]|'[^'\n]|\"""|''')"""
_FIELDS = rf"\b(?:[A-Za-z0-9_-]*[_-])?(?:(?i:{SECRET_WORDS})|[A-Z0-9_]+{SECRET_NAME.pattern.removesuffix('$')}){_TEXT}"
"""A field of the configuration file, such as a header, whose text is a secret itself and not the place of one."""
_TEXTS = (
    r"(?:^|[\s\"'=,\[])(?:{beginnings})[A-Za-z0-9_.-]{{16,}}(?:$|[\s\"',\]])",
    r"[\"'][a-z0-9+]+://[^/?#\s\[\](){{}}\\\"']*@",
    r"[\"'][a-z0-9+]+://[^\s\"']*[?&][^=&#?\s]*(?i:pass|pwd|secret|token|key)[^=&#?\s]*=",
    r"-----BEGIN [A-Z ]+-----(?:\s|\\[nr])+[A-Za-z0-9+/=]{{16}}",
)
"""Complete keys and addresses with passwords in the configuration file. Its patterns of inspectors are none."""


def written_template() -> str:
    """Return the template: expressions for variables, and for fields and texts of the configuration file."""
    names = "|".join(list_secret_variables(PROVIDERS))
    beginnings = "|".join(re.escape(beginning) for beginning in KEY_BEGINNINGS)
    return f"""\
{{{{- /* Written by `python3 scripts/fix.py` from the table of settings. */}}}}

{{{{- /* Names of variables whose values are secrets, or may contain one. */}}}}
{{{{- define "anthropic-proxy.secretNames" -}}}}
^({names})$|{SECRET_NAME.pattern}
{{{{- end }}}}

{{{{- /* Values that are or contain a secret, whatever their variable is. */}}}}
{{{{- define "anthropic-proxy.secretValues" -}}}}
^({beginnings})|{"|".join(_VALUES)}
{{{{- end }}}}

{{{{- /* Fields of anthropic-proxy.toml with a text that is a secret itself. */}}}}
{{{{- define "anthropic-proxy.secretFields" -}}}}
{_FIELDS}
{{{{- end }}}}

{{{{- /* Texts in anthropic-proxy.toml that are or contain a secret, whatever their field is. */}}}}
{{{{- define "anthropic-proxy.secretTexts" -}}}}
{"|".join(_TEXTS).format(beginnings=beginnings)}
{{{{- end }}}}
"""
