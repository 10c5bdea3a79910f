"""Keys in the headers of a client request, and their comparison with the keys of the settings."""

import hmac
from collections.abc import Mapping, Sequence

from anthropic_proxy.secrets import Secret


def find_credentials(headers: Mapping[str, str]) -> list[bytes]:
    """Return the keys that a client sent in `x-api-key` and as bearer token in `authorization`."""
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else "" if token else scheme
    # a client may send its own Anthropic key in one header and the key of the proxy in the other
    return [key.encode() for key in (headers.get("x-api-key", ""), bearer) if key]


def find_matching_key(presented: Sequence[bytes], keys: Sequence[Secret]) -> int | None:
    """Return the position, from 1, of the key in `keys` that the client presented. None: no key matches."""
    expected = [key.reveal().encode() for key in keys]
    # all pairs are compared, in constant time, so that the duration reveals nothing about the keys
    matches = [[hmac.compare_digest(offered, key) for key in expected] for offered in presented]
    matching = next((row for row in matches if any(row)), None)
    return None if matching is None else matching.index(True) + 1
