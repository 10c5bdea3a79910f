"""Selection of the HTTP proxy for a URL."""

from collections.abc import Mapping
from urllib.parse import urlsplit


def find_proxy(url: str, proxies: Mapping[str, str], unproxied: str) -> str | None:
    """Return the proxy for a URL. None: no proxy.

    `proxies`: URL scheme → proxy. `unproxied`: comma-separated hosts, as in `NO_PROXY`. Environment variables are not
    read.
    """
    target = urlsplit(url)
    if target.scheme not in proxies:
        return None
    import urllib.request  # noqa: PLC0415  # loads several modules, only required with a proxy

    host = f"{target.hostname}:{target.port or (443 if target.scheme == 'https' else 80)}"
    bypassed = urllib.request.proxy_bypass_environment(host, {"no": unproxied})  # type: ignore[attr-defined]
    return None if bypassed else proxies[target.scheme]
