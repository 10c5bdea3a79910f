"""Stand-ins of the servers that give access tokens for Google Cloud, and the files that lead google-auth to them.

`/token` takes a service account's signed claim or a user's refresh token, `/sts` exchanges a foreign token, and
`/computeMetadata/…` is the metadata server of a machine in Google's cloud. Each rejects the same requests as the real
one.
"""

import asyncio
import base64
import json
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, new_application

PROJECT = "project-of-the-credentials"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
AUDIENCE = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/pool/providers/cluster"
_EMAIL = f"proxy@{PROJECT}.iam.gserviceaccount.com"
_REFRESH_TOKEN = "1//fake-refresh-token"
_CLIENT_SECRET = "GOCSPX-fake-client-secret"
_FOREIGN_TOKEN = "foreign-token-of-the-cluster"
_METADATA = "/computeMetadata/v1/"
_CLAIMED_AUDIENCE = "https://oauth2.googleapis.com/token"
"""Audience in the claims of google-auth, for every `token_uri`."""


@cache
def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class TokenServers:
    """All token servers at once. `issued` has every token that was given, the last one last."""

    def __init__(self, lifetime: int = 3600) -> None:
        self.lifetime = lifetime
        self.issued: list[str] = []
        self.revoked: set[str] = set()
        self.refresh_tokens = {_REFRESH_TOKEN}
        self.failure: tuple[int, Any] | None = None
        """Status and body with which every request is answered instead."""
        self.gate = threading.Event()
        """While it is not set, no request is answered."""
        self.gate.set()
        self.waiting = threading.Event()
        """Set once a request waits at the gate."""

    def accepts(self, token: str) -> bool:
        return token in self.issued and token not in self.revoked

    def _issue(self) -> str:
        self.issued.append(f"ya29.fake-token-{len(self.issued) + 1}")
        return self.issued[-1]

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        form = {name: values[0] for name, values in parse_qs(raw.decode()).items()}
        exchange = journal.open(request, sorted(form))
        while not self.gate.is_set():
            self.waiting.set()
            await asyncio.sleep(0.005)
        if self.failure is not None:
            return _send(exchange, *self.failure)
        if request.path == "/" or request.path.startswith(_METADATA):  # by the first it is found
            return self._answer_metadata(request, exchange)
        refusal = _check_exchange(form) if request.path == "/sts" else self._check_grant(form)
        if refusal is not None:
            exchange.breaches.append(ContractViolation("token", refusal))
            return _send(exchange, 400, {"error": "invalid_grant", "error_description": refusal})
        given = {"access_token": self._issue(), "expires_in": self.lifetime, "token_type": "Bearer"}
        issued_as = {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
        return _send(exchange, 200, given | (issued_as if request.path == "/sts" else {"scope": SCOPE}))

    def _check_grant(self, form: dict[str, str]) -> str | None:
        if form.get("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return _check_claim(form.get("assertion", ""))
        if form.get("grant_type") != "refresh_token":
            return "no such grant_type"
        known = form.get("refresh_token") in self.refresh_tokens and form.get("client_secret") == _CLIENT_SECRET
        return None if known else "Token has been expired or revoked."

    def _answer_metadata(self, request: web.Request, exchange: Exchange) -> web.Response:
        flavor = {"metadata-flavor": "Google"}
        if request.headers.get("metadata-flavor") != "Google":
            exchange.breaches.append(ContractViolation("metadata", "Missing Metadata-Flavor:Google header."))
            return web.Response(status=403)
        place = request.path.removeprefix(_METADATA).removeprefix("/")
        if place == "project/project-id":
            return web.Response(text=PROJECT, headers=flavor, content_type="application/text")
        account = "instance/service-accounts/default/"
        if place == account:
            found: Any = {"aliases": ["default"], "email": _EMAIL, "scopes": [SCOPE]}
        elif place in (account + "token", f"instance/service-accounts/{_EMAIL}/token"):
            found = {"access_token": self._issue(), "expires_in": self.lifetime, "token_type": "Bearer"}
        elif not place:
            found = {}
        else:
            return web.Response(status=404, headers=flavor)
        return web.json_response(found, headers=flavor)


def _send(exchange: Exchange, status: int, body: Any) -> web.Response:
    exchange.status = status
    return web.json_response(body, status=status)


def _check_claim(assertion: str) -> str | None:
    signed, _, signature = assertion.rpartition(".")
    try:
        _key().public_key().verify(_unpack(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, ValueError):
        return "Invalid JWT Signature."
    claim = json.loads(_unpack(signed.split(".")[1]))
    if claim["iss"] != _EMAIL or claim["aud"] != _CLAIMED_AUDIENCE or claim["scope"] != SCOPE:
        return "Invalid JWT: issuer, audience and scope must be those of the account."
    return None if claim["iat"] - 60 <= time.time() <= claim["exp"] else "Invalid JWT: it must be a short-lived token."


def _check_exchange(form: dict[str, str]) -> str | None:
    wanted = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "audience": AUDIENCE,
        "scope": SCOPE,
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "subject_token": _FOREIGN_TOKEN,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    }
    return next((f"{name} is not {value}" for name, value in wanted.items() if form.get(name) != value), None)


def _unpack(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def new_token_servers(servers: TokenServers) -> web.Application:
    return new_application(servers.answer, RequestLog())


def write_service_account(directory: Path, url: str) -> Path:
    """Write the key file of a service account."""
    pem = _key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _write(
        directory,
        type="service_account",
        project_id=PROJECT,
        private_key_id="fake-key-1",
        private_key=pem.decode(),
        client_email=_EMAIL,
        client_id="123456789012345678901",
        token_uri=f"{url}/token",
    )


def write_authorized_user(directory: Path, url: str, **fields: str) -> Path:
    """Write the files of a user's log-in. google-auth always calls Google's own server, for every `token_uri`."""
    given = {"refresh_token": _REFRESH_TOKEN, **fields}
    return _write(
        directory,
        type="authorized_user",
        client_id="fake.apps.googleusercontent.com",
        client_secret=_CLIENT_SECRET,
        token_uri=f"{url}/token",
        **given,
    )


def write_external_account(directory: Path, url: str) -> Path:
    """Write the configuration of a workload identity, and beside it the foreign token."""
    foreign = directory / "foreign-token"
    foreign.write_text(_FOREIGN_TOKEN)
    return _write(
        directory,
        type="external_account",
        audience=AUDIENCE,
        subject_token_type="urn:ietf:params:oauth:token-type:jwt",
        token_url=f"{url}/sts",
        credential_source={"file": str(foreign)},
    )


def _write(directory: Path, **fields: Any) -> Path:
    path = directory / "credentials.json"
    path.write_text(json.dumps(fields))
    return path
