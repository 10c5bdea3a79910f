"""Variables shared by all programs: color and HTTP proxies.

They are read from the environment only: libraries that read them do not see `.env`.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from anthropic_proxy.settings.fields import Secret

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
                warnings[f"{variable} names a {kind} proxy, which is not used: only http and https ones are."] = None
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
