"""Environment variables that make Claude Code and the Anthropic SDKs use a proxy, for `code`, `run` and `env`.

`client_variables` returns these variables. `conflicting_variables` returns the names of variables that would select
another server or credential. `child_environment` returns the complete environment for a client that a command starts.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from anthropic_proxy.cli.local_proxy import LocalProxy

MAIN_MODELS = ("opus", "sonnet")
"""Models that Claude Code requests for a conversation, if the user chooses none."""
_TIERS = ("opus", "sonnet", "haiku", "fable")
MODEL_VARIABLES = (
    *("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_MODEL", "ANTHROPIC_SMALL_FAST_MODEL"),
    *(f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL" for tier in _TIERS),
)
"""Variables with which Claude Code requests another model than its own default."""
CREDENTIAL_HEADERS = "ANTHROPIC_CUSTOM_HEADERS"
"""Variable with headers for every request of Claude Code, one in each line. A header among them can be a credential."""
_SERVER_VARIABLES = (
    *("ANTHROPIC_BASE_URL", "ANTHROPIC_UNIX_SOCKET", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_MANTLE"),
    *("CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY", "CLAUDE_CODE_USE_GATEWAY"),
    *("CLAUDE_CODE_USE_ANTHROPIC_AWS", "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD"),
)
_CREDENTIAL_VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
_CREDENTIAL_HEADER = re.compile(r"\s*(?:x-api-key|authorization)\s*:", re.IGNORECASE)
_HTTP_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_UNPROXIED = ("NO_PROXY", "no_proxy")
_MODEL_OPTION = re.compile(r"--model(?:=(.+))?")
_MODEL_CHARACTERS = "/:@"
"""Special characters in model names that are not escaped in a URL path."""
_LONG_CONTEXT = "[1m]"
"""Suffix of a model name by which Claude Code assumes a window of 1,000,000 tokens. Claude Code does not send the
suffix."""


def client_variables(
    proxy: LocalProxy,
    environ: Mapping[str, str],
    arguments: Sequence[str] = (),
    model: str = "",
    effective: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the environment variables that make a client use `proxy`: address, credential and limits of the model.

    `environ`: variables of the user. Hosts of NO_PROXY and custom headers of the result are from there only.
    `effective`: variables that the client would use, if files of a project can change them. A limit that is set there
    is left out of the result, so that it stays in use.
    """
    effective = environ if effective is None else effective
    variables = {"ANTHROPIC_BASE_URL": proxy.address, **_bypass_http_proxies(proxy.host, environ, effective)}
    if proxy.token:
        variables["ANTHROPIC_AUTH_TOKEN"] = proxy.token
        if any(has_credential_header(place.get(CREDENTIAL_HEADERS, "")) for place in (environ, effective)):
            variables[CREDENTIAL_HEADERS] = _drop_credential_headers(environ.get(CREDENTIAL_HEADERS, ""))
    optional = _find_limits(proxy, _requested_models(effective, arguments, model))
    optional["CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY"] = "1"
    return variables | {name: value for name, value in optional.items() if name not in effective}


def conflicting_variables(variables: Mapping[str, str]) -> Sequence[str]:
    """Return the names of variables by which a client would use another server or credential than the proxy.

    `variables`, from `client_variables`, make the client use the proxy. Variables with credentials, such as
    `ANTHROPIC_API_KEY`, are included only if `variables` contain a credential for the proxy. Otherwise the client needs
    its own credential, which the proxy forwards.
    """
    return (*_SERVER_VARIABLES, *(_CREDENTIAL_VARIABLES if "ANTHROPIC_AUTH_TOKEN" in variables else ()))


def child_environment(variables: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the complete environment for a client that a command starts, such as Claude Code.

    Variables of the user that select another server or credential are left out.
    """
    conflicts = conflicting_variables(variables)
    return {**{name: value for name, value in environ.items() if name not in conflicts}, **variables}


def has_credential_header(headers: str) -> bool:
    """Return True if `headers`, the value of `ANTHROPIC_CUSTOM_HEADERS`, contains a credential."""
    return any(map(_CREDENTIAL_HEADER.match, headers.splitlines()))


def has_model_option(arguments: Sequence[str]) -> bool:
    """Return True if `arguments` of Claude Code contain the option `--model`."""
    return any(map(_MODEL_OPTION.fullmatch, arguments))


def _drop_credential_headers(headers: str) -> str:
    return "\n".join(line for line in headers.splitlines() if not _CREDENTIAL_HEADER.match(line))


def _bypass_http_proxies(host: str, environ: Mapping[str, str], effective: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which a client calls `host` without an HTTP proxy.

    Empty: neither `environ`, the variables of the user, nor `effective`, those of the client, have an HTTP proxy.
    Claude Code would otherwise send even requests to this machine to the HTTP proxy.
    """
    if not any(place.get(name) or place.get(name.lower()) for place in (environ, effective) for name in _HTTP_PROXIES):
        return {}
    hosts = [entry.strip() for name in _UNPROXIED for entry in environ.get(name, "").split(",") if entry.strip()]
    return dict.fromkeys(_UNPROXIED, ",".join(dict.fromkeys([*hosts, host])))


def _requested_models(environ: Mapping[str, str], arguments: Sequence[str], setting: str) -> Sequence[str]:
    """Return the models that Claude Code requests for a conversation, from its variables, arguments and settings.

    `setting`: model in the settings of Claude Code; "": none.
    """
    chosen = environ.get("ANTHROPIC_MODEL") or setting or environ.get("ANTHROPIC_DEFAULT_MODEL") or ""
    for position, argument in enumerate(arguments):
        found = _MODEL_OPTION.fullmatch(argument)
        if found is not None:
            chosen = found[1] or "".join(arguments[position + 1 : position + 2]) or chosen
    models = (chosen,) if chosen not in ("", "default", "best") else MAIN_MODELS
    return [_resolve_alias(model.removesuffix(_LONG_CONTEXT), environ) for model in models]


def _resolve_alias(model: str, environ: Mapping[str, str]) -> str:
    """Return the model id that Claude Code requests for `model`, an alias such as `opus` or `sonnet`.

    `environ`: variables of the user, which can replace the model of an alias.
    """
    tier = "opus" if model == "opusplan" else model
    if tier not in _TIERS:
        return model
    return environ.get(f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL") or f"claude-{tier}"


def _find_limits(proxy: LocalProxy, models: Sequence[str]) -> dict[str, str]:
    """Return the variables for context window and output limit: the smallest values of `models`.

    Empty if the proxy does not list the models. Claude Code then assumes a window of 1,000,000 tokens.
    """
    paths = [f"/v1/models/{quote(model, safe=_MODEL_CHARACTERS, errors='replace')}" for model in models]
    entries = [entry for path in paths if isinstance(entry := proxy.get_json(path), dict)]
    window, output = _smallest(entries, "max_input_tokens"), _smallest(entries, "max_tokens")
    limits: dict[str, str] = {}
    if window is not None:
        limits |= {"CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(window), "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(window)}
    if output is not None:
        limits["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(output)
    return limits


def _smallest(entries: Sequence[Mapping[str, Any]], field: str) -> int | None:
    return min((value for entry in entries if isinstance(value := entry.get(field), int) and value > 0), default=None)
