"""Variables of the environment that other programs and libraries read too: color, HTTP proxies, LiteLLM.

Color and HTTP proxies are read from the environment only: libraries that read them do not see `.env`.
"""

import os
from collections.abc import Mapping, MutableMapping, Sequence
from urllib.parse import urlsplit

from anthropic_proxy.settings.fields import Secret, Settings

_SCHEMES = ("http", "https")
_BINDING = ("--host", "--bind", "-b")
"""Options with the listen address of uvicorn, gunicorn and hypercorn."""


def find_color_setting(environ: Mapping[str, str]) -> bool | None:
    """Return the color setting (no-color.org, `FORCE_COLOR`, `TERM=dumb`). None: not set."""
    if environ.get("NO_COLOR"):
        return False
    if forced := environ.get("FORCE_COLOR", "").strip().lower():
        return forced not in ("0", "false")
    return False if environ.get("TERM") == "dumb" else None


def find_proxies(environ: Mapping[str, str]) -> tuple[dict[str, Secret], list[str]]:
    """Return the HTTP proxy per scheme of a base URL, and warnings about unsupported proxies."""
    proxies: dict[str, Secret] = {}
    warnings: dict[str, None] = {}
    for scheme in _SCHEMES:
        for name in (f"{scheme}_proxy", "all_proxy"):
            variable, address = _find_variable(environ, name)
            if not address:
                continue
            address = address if "://" in address else f"http://{address}"
            kind = urlsplit(address).scheme.lower()
            if kind in _SCHEMES:
                proxies[scheme] = Secret(address, f"{variable} in the environment")
            else:
                warnings[f"{variable} names a {kind} proxy, which is not supported: use an http or https proxy."] = None
            break
    return proxies, list(warnings)


def find_no_proxy(environ: Mapping[str, str]) -> str:
    """Return the comma-separated hosts that are reached without an HTTP proxy."""
    return _find_variable(environ, "no_proxy")[1]


def find_bound_host(arguments: Sequence[str]) -> str:
    """Return the listen address in a command line (`--host 0.0.0.0`, `--bind=:8082`). "": none."""
    for name, value in zip(arguments, [*arguments[1:], ""], strict=True):
        option, _, joined = name.partition("=")
        if option in _BINDING:
            host = (joined or value).removeprefix("tcp://")
            return host if option == "--host" else host.rpartition(":")[0].strip("[]") or "0.0.0.0"
    return ""


def _find_variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return the variable and its value. Lower case takes precedence, as in curl."""
    return next(((key, value) for key in (name, name.upper()) if (value := environ.get(key, "").strip())), (name, ""))


_FOR_LITELLM = {
    "LITELLM_MODE": "PRODUCTION",  # otherwise LiteLLM loads a `.env` file itself
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise its import downloads tables
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    # the wire drops cache marks: without those of LiteLLM, Claude on Bedrock caches no prompt
    "LITELLM_ENABLE_ANTHROPIC_PROMPT_CACHING": "true",
}


def export_to_litellm(settings: Settings, exported: MutableMapping[str, Secret] | None = None) -> None:
    """Set the variables of `.env` and the start options of LiteLLM in `os.environ`, unless they are set.

    `exported`: variables set by an earlier call. They are removed, and the dict is filled with the present ones.
    """
    for name, secret in (exported or {}).items():
        if os.environ.get(name) == secret.reveal():
            del os.environ[name]
    for name, value in _FOR_LITELLM.items():
        os.environ.setdefault(name, value)
    fresh = {name: secret for name, secret in settings.other_variables.items() if name not in os.environ}
    os.environ.update({name: secret.reveal() for name, secret in fresh.items()})
    if exported is not None:
        exported.clear()
        exported.update(fresh)
