"""A strict identity provider (OpenID Connect): discovery, PKCE, codes for one use, and real RSA and EC signatures.

It rejects every request that a certified provider rejects. A test can change the ID token or its signature.
"""

import base64
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import httpx2
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from tests.support.tls import NO_AUTHORITIES
from tests.support.waiting import WAIT_SECONDS

CLIENT_ID = "anthropic-proxy"
CLIENT_SECRET = "s+cret/of the client"  # characters that RFC 6749 requires to be encoded
_KEYS: dict[str, RSAKey | ECKey] = {
    "rsa": RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"}),
    "ec": ECKey.generate_key("P-256", {"kid": "ec", "use": "sig"}),
    "encryption": RSAKey.generate_key(2048, {"kid": "encryption", "use": "enc"}),
}
Claims = dict[str, Any]


class FakeProvider:
    """State of the provider. `problems`: requests that broke a rule, which a test compares with []."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.redirect_uri = ""
        self.user: Claims = {"sub": "user-1", "email": "ann@example.com", "email_verified": True, "name": "Ann"}
        self.change: Callable[[Claims], object] = lambda _: None
        """Changes the claims of the next ID tokens."""
        self.sign: Callable[[Claims], str] = lambda claims: sign(claims, "rsa")
        self.published = ["rsa", "ec", "encryption"]
        self.is_thin = False
        """True: the ID token has no claims about the user. They are in the user info."""
        self.user_info_subject = ""
        """Subject in the user info. "": that of the ID token."""
        self.sends_issuer = True
        self.described_issuer = ""
        """Issuer in the discovery document. "": its own."""
        self.token_reply = b""
        """Body of the token endpoint. b"": a valid one."""
        self.error = ""
        self.offers_refresh = False
        """True: the scope offline_access gives a refresh token, which is replaced at each use. As a certified provider
        does, it ignores the scope without `prompt=consent` (OpenID Connect Core 1.0, section 11)."""
        self.requires_consent = True
        """False: it gives a refresh token without `prompt=consent` too."""
        self.offers_refresh_by_access_type = False
        """True: `access_type=offline` gives one, as at Google, to a person that is asked for consent."""
        self.client_keys: list[RSAKey | ECKey] = []
        """Public keys of the client, which has no secret then, but proves who it is by `private_key_jwt`."""
        self.assertion_algorithms = ["RS256", "PS256", "ES256"]
        self.assertion_header: Claims = {}
        """Header of the last assertion."""
        self.queries: list[Mapping[str, str]] = []
        """Parameters of the authorization requests."""
        self.refresh_characters = 22
        """Length of refresh tokens."""
        self.refresh_failure: tuple[int, Claims] | None = None
        """Status and body of the answer to a refresh. None: it succeeds."""
        self.user_info_status = 200
        self.refreshes_shortly = False
        """True: the answer to a refresh has an access token only, and the refresh token stays valid."""
        self.may_refresh = threading.Event()
        """A refresh waits until it is set."""
        self.may_refresh.set()
        self.refreshes = 0
        self.problems: list[str] = []
        self.key_requests = 0
        self._codes: dict[str, Mapping[str, str]] = {}
        self._access_tokens: set[str] = set()
        self._assertions: set[str] = set()
        self._refresh_tokens: dict[str, Claims] = {}
        """Valid refresh token → claims that identify its user."""
        self.token_requests = 0

    def authorize(self, query: Mapping[str, str]) -> str:
        """Return the URL to which the browser is sent. A person would sign in here."""
        expected = {
            "response_type": "code",
            "client_id": CLIENT_ID,
            "redirect_uri": self.redirect_uri,
            "code_challenge_method": "S256",
        }
        for name, value in expected.items():
            self._require(query.get(name) == value, f"{name} is {query.get(name)!r}")
        self._require("openid" in query.get("scope", "").split(), "the scope openid is missing")
        for name, length in (("state", 16), ("nonce", 16), ("code_challenge", 43)):
            self._require(len(query.get(name, "")) >= length, f"{name} is too short")
        code = secrets.token_urlsafe(16)
        self._codes[code] = query
        self.queries.append(query)
        answer = {"error": self.error, "error_description": "not today"} if self.error else {"code": code}
        answer |= {"state": query.get("state", "")} | ({"iss": self.issuer} if self.sends_issuer else {})
        return f"{self.redirect_uri}?{urlencode(answer)}"

    def exchange(self, form: Mapping[str, str], authorization: str) -> tuple[int, Claims]:
        """Return status and body of the token endpoint."""
        self.token_requests += 1
        if not (self._proves_by_key(form) if self.client_keys else self._proves_by_secret(authorization)):
            return 401, {"error": "invalid_client"}
        if form.get("grant_type") == "refresh_token":
            return self._refresh(form)
        asked = self._codes.pop(form.get("code", ""), None)
        if asked is None or form.get("grant_type") != "authorization_code":
            return 400, {"error": "invalid_grant"}
        self._require(form.get("redirect_uri") == asked["redirect_uri"], "another redirect_uri")
        challenge = create_s256_code_challenge(form.get("code_verifier", ""))
        self._require(challenge == asked["code_challenge"], "the code verifier does not match")
        has_scope = "offline_access" in asked.get("scope", "").split()
        self._require(has_scope <= self.offers_refresh, "the scope offline_access is not supported")
        is_asked = not self.requires_consent or "consent" in asked.get("prompt", "").split()
        has_type = self.offers_refresh_by_access_type and asked.get("access_type") == "offline"
        return 200, self._issue({"nonce": asked["nonce"]}, with_refresh=is_asked and (has_scope or has_type))

    def _proves_by_secret(self, authorization: str) -> bool:
        decoded = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        return tuple(unquote(piece) for piece in decoded.split(":")) == (CLIENT_ID, CLIENT_SECRET)

    def _proves_by_key(self, form: Mapping[str, str]) -> bool:
        """OpenID Connect Core 1.0, section 9, and RFC 7523, section 3."""
        if form.get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
            return False
        self._require("client_secret" not in form, "a secret beside the assertion")
        for key in self.client_keys:
            try:
                token = jwt.decode(form.get("client_assertion", ""), key, algorithms=self.assertion_algorithms)
            except (JoseError, ValueError):
                continue
            claims, now = token.claims, time.time()
            self.assertion_header = dict(token.header)
            self._require(claims["iss"] == claims["sub"] == CLIENT_ID, "the assertion is of another client")
            self._require(claims["aud"] == f"{self.issuer}/token", f"the audience is {claims['aud']!r}")
            self._require(now - 60 < claims["iat"] <= now + 1, "the assertion is old")
            self._require(now < claims["exp"] <= now + 300, "the assertion is valid for too long")
            self._require(claims["jti"] not in self._assertions, "the assertion was used before")
            self._assertions.add(claims["jti"])
            return form.get("client_id", CLIENT_ID) == CLIENT_ID
        return False

    def revoke_refresh_tokens(self) -> None:
        """Take away the access of all users."""
        self._refresh_tokens.clear()

    def _refresh(self, form: Mapping[str, str]) -> tuple[int, Claims]:
        self.refreshes += 1
        assert self.may_refresh.wait(WAIT_SECONDS)
        if self.refresh_failure is not None:
            return self.refresh_failure
        known = self._refresh_tokens.pop(form.get("refresh_token", ""), None)
        if known is None:
            return 400, {"error": "invalid_grant"}
        if self.refreshes_shortly:
            self._refresh_tokens[form["refresh_token"]] = known
            issued = self._issue({}, with_refresh=False)
            return 200, {name: issued[name] for name in ("access_token", "token_type")}
        return 200, self._issue({}, with_refresh=True)

    def _issue(self, own: Claims, *, with_refresh: bool) -> Claims:
        now = int(time.time())
        claims: Claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, **own}
        claims |= {"sub": self.user["sub"]} if self.is_thin else self.user
        self.change(claims)
        token = secrets.token_urlsafe(16)
        self._access_tokens.add(token)
        answer = {"access_token": token, "token_type": "Bearer", "id_token": self.sign(claims)}
        if with_refresh:
            answer["refresh_token"] = secrets.token_urlsafe(self.refresh_characters)[: self.refresh_characters]
            self._refresh_tokens[answer["refresh_token"]] = {"sub": self.user["sub"]}
        return answer

    def find_user_info(self, authorization: str) -> tuple[int, Claims]:
        if authorization.removeprefix("Bearer ") not in self._access_tokens:
            return 401, {"error": "invalid_token"}
        if self.user_info_status != 200:
            return self.user_info_status, {}
        return 200, {**self.user, "sub": self.user_info_subject or self.user["sub"]}

    def describe(self) -> Claims:
        """Return the discovery document."""
        return {
            "issuer": self.described_issuer or self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "token_endpoint_auth_methods_supported": ["private_key_jwt" if self.client_keys else "client_secret_basic"],
            "token_endpoint_auth_signing_alg_values_supported": self.assertion_algorithms,
            "authorization_response_iss_parameter_supported": self.sends_issuer,
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "scopes_supported": ["openid", "email", "profile", *(["offline_access"] if self.offers_refresh else [])],
        }

    def list_keys(self) -> Claims:
        self.key_requests += 1
        return {"keys": [_KEYS[name].as_dict(private=False) for name in self.published]}

    def _require(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)


def sign(claims: Claims, key: str, *, kid: str | None = None) -> str:
    """Return a token that a key of the provider signs. `kid`: other name of the key in the header."""
    algorithm = "ES256" if key == "ec" else "RS256"
    usable = {name: value for name, value in _KEYS[key].as_dict(private=True).items() if name != "use"}
    private = (ECKey if key == "ec" else RSAKey).import_key(usable)
    return jwt.encode({"alg": algorithm, "kid": kid or key}, claims, private, algorithms=[algorithm])


def sign_with_header(header: Claims, claims: Claims) -> str:
    """Return a token with a valid signature (RS256) over any header. A value None leaves the name out."""
    content = _encode({name: value for name, value in header.items() if value is not None}, claims)
    usable = {name: value for name, value in _KEYS["rsa"].as_dict(private=True).items() if name != "use"}
    private = RSAKey.import_key(usable).private_key
    assert private is not None
    signature = private.sign(content.encode(), PKCS1v15(), SHA256())
    return f"{content}.{_to_base64(signature)}"


def sign_with_foreign_key(claims: Claims) -> str:
    return jwt.encode({"alg": "RS256", "kid": "rsa"}, claims, RSAKey.generate_key(2048), algorithms=["RS256"])


def sign_with_public_key_as_secret(claims: Claims) -> str:
    content = _encode({"alg": "HS256", "kid": "rsa"}, claims)
    signature = hmac.digest(_KEYS["rsa"].as_pem(private=False), content.encode(), "sha256")
    return f"{content}.{_to_base64(signature)}"


def encode_unsigned(claims: Claims) -> str:
    return _encode({"alg": "none"}, claims) + "."


def change_payload(claims: Claims) -> str:
    header, _, signature = sign(claims, "rsa").split(".")
    changed = json.dumps({**claims, "email": "root@example.com"}).encode()
    return f"{header}.{_to_base64(changed)}.{signature}"


def _encode(header: Claims, claims: Claims) -> str:
    return ".".join(_to_base64(json.dumps(piece).encode()) for piece in (header, claims))


def _to_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        provider, url = self.server.provider, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/authorize":
            self._send(302, {}, location=provider.authorize(query))
        elif url.path == "/userinfo":
            self._send(*provider.find_user_info(self.headers["authorization"]))
        elif url.path == "/keys":
            self._send(200, provider.list_keys())
        elif url.path == "/.well-known/openid-configuration":
            self._send(200, provider.describe())
        else:
            self._send(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        status, found = self.server.provider.exchange(form, self.headers.get("authorization", ""))
        self._send(status, self.server.provider.token_reply or found)

    def _send(self, status: int, body: Claims | bytes, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None: ...


class _Server(ThreadingHTTPServer):
    provider: FakeProvider
    daemon_threads = True


def ask_provider(url: str) -> str:
    """Go to the identity provider, and return the address to which it sends the browser."""
    return httpx2.get(url, trust_env=False, verify=NO_AUTHORITIES).headers["location"]


@contextmanager
def running_provider() -> Iterator[FakeProvider]:
    """Yield a provider that listens on this machine."""
    server = _Server(("127.0.0.1", 0), _Requests)
    server.provider = FakeProvider(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join(WAIT_SECONDS)
