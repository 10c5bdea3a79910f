"""What the system says to every program: whether colours are wanted, and the proxies on the way out.

Of the environment alone: in `.env` they would be known to us and not to the libraries that look for them themselves.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from anthropic_proxy.settings.fields import Secret

_SCHEMES = ("http", "https")
_BINDING = ("--host", "--bind", "-b")
"""How uvicorn, and gunicorn and hypercorn, are told where to listen."""


def find_colours(environ: Mapping[str, str]) -> bool | None:
    """Return whether colours are wanted (no-color.org, `FORCE_COLOR`, `TERM=dumb`); None: nothing is said."""
    if environ.get("NO_COLOR"):
        return False
    if forced := environ.get("FORCE_COLOR", "").strip().lower():
        return forced not in ("0", "false")
    return False if environ.get("TERM") == "dumb" else None


def find_proxies(environ: Mapping[str, str]) -> tuple[dict[str, Secret], list[str]]:
    """Return the proxy for each scheme of a provider's address, and what start-up must say about those left out."""
    proxies: dict[str, Secret] = {}
    warnings: dict[str, None] = {}
    for scheme in _SCHEMES:
        for name in (f"{scheme}_proxy", "all_proxy"):
            variable, address = _look_up(environ, name)
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


def find_unproxied(environ: Mapping[str, str]) -> str:
    """Return the hosts that are reached without a proxy, by comma."""
    return _look_up(environ, "no_proxy")[1]


def find_bound_host(arguments: Sequence[str]) -> str:
    """Return the address in another server's command line (`--host 0.0.0.0`, `--bind=:8082`); empty: none is there."""
    for name, value in zip(arguments, [*arguments[1:], ""], strict=True):
        option, _, joined = name.partition("=")
        if option in _BINDING:
            host = (joined or value).removeprefix("tcp://")
            return host if option == "--host" else host.rpartition(":")[0].strip("[]") or "0.0.0.0"
    return ""


def _look_up(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return the variable that was found and its value. The small spelling wins, as it does for other programs."""
    return next(((key, value) for key in (name, name.upper()) if (value := environ.get(key, "").strip())), (name, ""))
