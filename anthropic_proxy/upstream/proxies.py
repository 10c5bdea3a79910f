"""Which proxy stands on the way to an address."""

from collections.abc import Mapping
from urllib.parse import urlsplit


def find_proxy(url: str, proxies: Mapping[str, str], unproxied: str) -> str | None:
    """Return the proxy on the way to an address; None: none.

    `proxies`: the scheme of an address → its proxy; `unproxied`: hosts by comma that are reached without one, as
    `NO_PROXY` has them. Nothing is read from the environment: aiohttp's own way reads it, and `.netrc` with its
    passwords, at every request.
    """
    parts = urlsplit(url)
    if parts.scheme not in proxies:
        return None
    import urllib.request  # noqa: PLC0415  # half a dozen modules, for who has a proxy

    host = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    bypassed = urllib.request.proxy_bypass_environment(host, {"no": unproxied})  # type: ignore[attr-defined]
    return None if bypassed else proxies[parts.scheme]
