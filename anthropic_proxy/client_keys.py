"""Keys that a client presents in the headers of a request, and their comparison with keys of the settings.

`find_credentials` returns the presented keys, `find_matching_key` the position of the matching key in the settings.
"""

import hmac
from collections.abc import Mapping, Sequence

from anthropic_proxy.settings import Secret


def find_credentials(headers: Mapping[str, str]) -> list[bytes]:
    """Return the values of `x-api-key` and of the bearer token in `authorization`, without empty ones.

    A client may send its own Anthropic key in one header and the key of the proxy in the other.
    """
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else "" if token else scheme
    return [key.encode() for key in (headers.get("x-api-key", ""), bearer) if key]


def find_matching_key(presented: Sequence[bytes], keys: Sequence[Secret]) -> int | None:
    """Return the position, from 1, in `keys` of the key that a client presents. None: no key matches.

    Each key is compared with each credential in constant time, so that the duration reveals nothing about the keys.
    """
    expected = [key.reveal().encode() for key in keys]
    matches = [[hmac.compare_digest(offered, key) for key in expected] for offered in presented]
    matching = next((row for row in matches if any(row)), None)
    return None if matching is None else matching.index(True) + 1
