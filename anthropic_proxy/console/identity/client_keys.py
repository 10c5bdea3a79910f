"""Proof of the proxy at the identity provider by a private key in place of a secret: `private_key_jwt` (OpenID Connect
Core 1.0, section 9; RFC 7523). This module needs the extra `oidc`.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey
from joserfc.util import to_str, urlsafe_b64encode
from msgspec import Struct

from anthropic_proxy.console.identity.people import OidcError
from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.errors import ConfigurationError, join_with_or
from anthropic_proxy.gateway.settings import OidcSettings

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_MAX_FILE_BYTES = 65_536
_ASSERTION_SECONDS = 120
_MIN_RSA_BITS = 2_048
_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
_EC_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_RSA_ALGORITHMS = ("RS256", "PS256", "RS384", "PS384", "RS512", "PS512")
PrivateKey = RSAKey | ECKey | OKPKey


class ClientKey(Struct, frozen=True):
    key: PrivateKey
    algorithms: Sequence[str]
    """Algorithms of this key, the preferred one first."""
    header: Mapping[str, str]
    """What tells the provider which key it is: `kid` of a JWK, or the thumbprints of a certificate beside the key, by
    which Microsoft Entra ID finds it."""

    def sign(self, client_id: str, audience: str, supported: Sequence[str], now: float) -> str:
        """Return an assertion for one request. `supported`: algorithms that the provider states; empty: it states none.
        Raises `OidcError` if the key has none of them.
        """
        algorithm = next((name for name in self.algorithms if not supported or name in supported), None)
        if algorithm is None:
            raise OidcError(
                f"The identity provider accepts assertions with {join_with_or(list(supported)[:8])}, and the private "
                f"key of this proxy signs with {join_with_or(list(self.algorithms))}.",
                remedy="An administrator should use a key of another type.",
                status=502,
            )
        times = {"iat": int(now), "exp": int(now) + _ASSERTION_SECONDS}
        claims = {"iss": client_id, "sub": client_id, "aud": audience, "jti": secrets.token_urlsafe(24), **times}
        header = {"alg": algorithm, "typ": "JWT", **self.header}
        return jwt.encode(header, claims, self.key, algorithms=[algorithm])


class _UnusableKey(Exception):
    """A key that can be read, but not used. The text continues a sentence that begins with its place."""


def load_client_key(settings: OidcSettings) -> ClientKey | None:
    """Read the file again, so that a replaced key needs no reload. None: there is no private key. Raises
    `ConfigurationError`, whose message does not show the key.
    """
    if settings.client_key is not None:
        return _decode("OIDC_CLIENT_KEY", settings.client_key.reveal())
    if settings.client_key_file is None:
        return None
    place = f"OIDC_CLIENT_KEY_FILE ({settings.client_key_file})"
    try:
        text = read_bounded_file(settings.client_key_file, _MAX_FILE_BYTES).decode()
    except OSError as error:
        raise _invalid(place, f"cannot be read: {describe_os_error(error)}") from None
    except UnicodeDecodeError:
        raise _invalid(place, "is no text") from None
    return _decode(place, text)


def _decode(place: str, text: str) -> ClientKey:
    try:
        return _decode_jwk(text) if text.lstrip().startswith("{") else _decode_pem(text)
    except _UnusableKey as error:
        raise _invalid(place, str(error)) from None
    except (JoseError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise _invalid(place, "contains no private key that can be read") from None


def _decode_jwk(text: str) -> ClientKey:
    """Of a set of keys (`{"keys": […]}`), the first one signs."""
    document = json.loads(text)
    listed = document.get("keys", [document])
    fields: dict[str, Any] = {name: value for name, value in listed[0].items() if name not in ("use", "key_ops")}
    key = JWKRegistry.import_key(fields)
    if not isinstance(key, RSAKey | ECKey | OKPKey) or not key.is_private:
        raise _UnusableKey("contains no private key of the type RSA, EC or OKP")
    names = ("kid", "x5t", "x5t#S256")
    header = {name: value for name in names if isinstance(value := fields.get(name), str)}
    algorithms = _list_algorithms(key)
    if (stated := fields.get("alg")) is not None:
        if stated not in algorithms:
            raise _UnusableKey(f'has the algorithm "{str(stated)[:20]}", which this type of key does not have')
        algorithms = [stated]
    return ClientKey(key, algorithms, header)


def _decode_pem(text: str) -> ClientKey:
    loaded = load_pem_private_key(text.encode(), None)
    pem = text.encode()
    key: PrivateKey
    match loaded:
        case RSAPrivateKey():
            key = RSAKey.import_key(pem)
        case EllipticCurvePrivateKey():
            key = ECKey.import_key(pem)
        case Ed25519PrivateKey():
            key = OKPKey.import_key(pem)
        case _:
            raise _UnusableKey("contains a private key of another type than RSA, EC and Ed25519")
    header = {}
    if _CERTIFICATE in text:
        certificate = load_pem_x509_certificate(text[text.index(_CERTIFICATE) :].encode())
        prints = {"x5t": certificate.fingerprint(SHA1()), "x5t#S256": certificate.fingerprint(SHA256())}
        header = {name: to_str(urlsafe_b64encode(value)) for name, value in prints.items()}
    return ClientKey(key, _list_algorithms(key), header)


def _list_algorithms(key: PrivateKey) -> Sequence[str]:
    if isinstance(key, RSAKey):
        if key.raw_value.key_size < _MIN_RSA_BITS:
            raise _UnusableKey(f"contains an RSA key of less than {_MIN_RSA_BITS:,} bits")
        return _RSA_ALGORITHMS
    if isinstance(key, ECKey) and key.curve_name in _EC_ALGORITHMS:
        return [_EC_ALGORITHMS[key.curve_name]]
    if isinstance(key, OKPKey) and key.curve_name == "Ed25519":
        return ["EdDSA", "Ed25519"]
    raise _UnusableKey(f"contains a key with the curve {key.curve_name}, which is not supported")


def _invalid(place: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"{place} {reason}. Use the private key that belongs to the public one of this client at the identity "
        "provider: PEM without a password, or JWK.",
        code="identity-provider",
    )
