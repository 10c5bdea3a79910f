"""Check of an ID token: a text with facts about a user (claims), which the identity provider has signed.

`verify_id_token` checks the signature and the claims (OpenID Connect Core 1.0, section 3.1.3.7). `decode_key_set`
returns the public keys of the provider. `UnknownKeyError` means that the provider may have new keys.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from joserfc import jws, jwt
from joserfc.errors import ClaimError, ExpiredTokenError, InvalidKeyIdError, JoseError, MissingClaimError
from joserfc.jwk import Key, KeySet

from anthropic_proxy.dashboard.oidc_errors import CHECK_ISSUER, RETRY, OidcError

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
"""Accepted algorithms of the signature. All have a public key: with `HS256`, an attacker could sign a token with the
public key as secret."""
LEEWAY_SECONDS = 60
"""Accepted difference in seconds between the clocks of the identity provider and the proxy."""
_KEY_TYPES = ("RSA", "EC", "OKP")
_CLAIM_TEXTS = {
    "iss": "it is of another issuer",
    "aud": "it is for another client (claim aud)",
    "azp": "it is for another client (claim azp)",
    "nonce": "its nonce is not that of this sign-in",
    "exp": "it has expired",
    "nbf": "it is not valid yet: compare the clocks of both servers",
    "iat": "it is of the future: compare the clocks of both servers",
    "at_hash": "it does not belong to the access token",
}
"""Name of an invalid claim → reason in the error message."""


class UnknownKeyError(Exception):
    """Exception: a token was signed with a key that is not one of the provider's known keys."""


def decode_key_set(document: Mapping[str, Any]) -> KeySet:
    """Return the public keys for signatures in `document`, the key set of the identity provider.

    Raises `OidcError` if it has none.
    """
    listed = document.get("keys")
    usable: list[Key] = []
    for key in listed if isinstance(listed, list) else []:
        if isinstance(key, dict) and key.get("kty") in _KEY_TYPES and key.get("use", "sig") == "sig":
            with suppress(
                JoseError, ValueError, TypeError, KeyError, RecursionError
            ):  # RFC 7517, section 5: ignore unknown keys
                usable += KeySet.import_key_set({"keys": [key]}).keys
    if not usable:
        raise OidcError(f"The identity provider has no usable keys for signatures. {CHECK_ISSUER}", status=502)
    return KeySet(usable)


def verify_id_token(
    id_token: str, keys: KeySet, *, issuer: str, client_id: str, nonce: str, access_token: str, now: float
) -> Mapping[str, Any]:
    """Check an ID token, the signed text with facts about a user, and return its claims.

    Raises `OidcError` for an invalid token, and `UnknownKeyError` if the key of its signature is not among `keys`.
    """
    if not nonce:
        raise _invalid("its nonce is not that of this sign-in")
    header = _read_header(id_token)
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS:
        raise _invalid(f"its signature has the algorithm {str(algorithm)[:20]!r}, which is not accepted")
    if header.get("kid") is None and len(keys.keys) > 1:
        raise _invalid("it does not name its key")
    try:
        token = jwt.decode(id_token, keys, algorithms=[algorithm])
    except InvalidKeyIdError:
        raise UnknownKeyError from None
    except (JoseError, ValueError, TypeError, RecursionError):
        raise _invalid("its signature does not match a key of the provider") from None
    options = {"iss": {"essential": True, "value": issuer}, "aud": {"essential": True, "value": client_id}}
    parameters = {"nonce": nonce, "client_id": client_id, "access_token": access_token}
    claims = CodeIDToken(dict(token.claims), token.header, options, parameters)
    try:
        claims.validate(now=int(now), leeway=LEEWAY_SECONDS)
    except JoseError as error:
        raise _invalid(_describe(error)) from None
    return dict(claims)


def _read_header(text: str) -> Mapping[str, Any]:
    """Return the header of the signed token `text`. The signature is not checked."""
    try:
        return dict(jws.extract_compact(text.encode()).protected)
    except (JoseError, ValueError, RecursionError):
        raise _invalid("it is not a signed token") from None


def _describe(error: JoseError) -> str:
    """Return the reason for which a token with this error of the library is invalid, for the message."""
    name = error.claim if isinstance(error, ClaimError) else ""
    if isinstance(error, MissingClaimError):
        return f"the claim {name} is missing"
    if name == "exp" and not isinstance(error, ExpiredTokenError):
        return "the claim exp is not a time"
    return _CLAIM_TEXTS.get(str(name), "a claim has an invalid value")


def _invalid(reason: str) -> OidcError:
    return OidcError(f"The identity provider sent an ID token that is not valid: {reason}. {RETRY}")
