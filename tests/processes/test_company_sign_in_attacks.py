"""Tokens, codes, states and redirects that nobody was given: each is refused, and the whole answer is compared."""

import base64
import hashlib
import hmac
import html
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.gateway.settings import SignInSettings
from anthropic_proxy.secrets import Secret
from tests.support.fakes.oidc import FakeProvider, running_provider, sign
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import (
    DEVICE_GRANT,
    SAME_ORIGIN,
    SECRET,
    Browser,
    Device,
    list_sign_in_settings,
    read_result,
)

KEYS = TokenKeys(SignInSettings(secrets=(Secret(SECRET),)))
SIGNING_KEY = hmac.digest(SECRET.encode(), b"access token", "sha256")
ADDRESSES = (f"198.51.100.{number}" for number in itertools.count(1))


class Company:
    """A proxy with a person that is signed in, and one whose sign-in has ended."""

    def __init__(self, proxy: Proxy, provider: FakeProvider) -> None:
        self.proxy = proxy
        self.provider = provider
        self.device, self.ended = Device(proxy, next(ADDRESSES)), Device(proxy, next(ADDRESSES))
        self.device.sign_in()
        self.ended.sign_in()
        token = {"token": self.ended.tokens["refresh_token"]}
        assert self.ended.client.post("/oauth/revoke", data=token).status_code == 200
        _, payload, _ = self.device.tokens["access_token"].split(".")
        self.claims: dict[str, Any] = json.loads(_from_base64(payload))

    def sign(self, **changes: object) -> str:
        """Return a token with the right signature. A claim that is None is left out."""
        claims = {name: value for name, value in {**self.claims, **changes}.items() if value is not None}
        return KEYS.sign(claims)


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    directory: Path = tmp_path_factory.mktemp("attacks")
    with running_provider() as provider:
        settings = {
            **list_sign_in_settings(provider),
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "warning",
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
            "TRUSTED_PROXIES": "127.0.0.1",
        }
        with running_proxy(directory, settings) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            yield Company(proxy, provider)
            assert provider.problems == []


INVALID = "The access token is not valid: {}. Sign in again:  /login"
EXPIRED = (
    "The access token has expired. Claude Code replaces it before a request. If it does not, sign in again:  /login"
)
ENDED = (
    "The sign-in has ended: it was ended on the device or by an administrator, or its time is over. Sign in again:  "
    "/login"
)
UNKNOWN_KEY = (
    "The key is not a key of this proxy, or it was not copied completely. Ask an administrator of the proxy for a key."
)
NO_SIGNATURE = INVALID.format("its signature does not match SIGN_IN_SECRET")
OTHER_PROXY = INVALID.format("it is of another proxy (claim iss)")
NO_TIME = INVALID.format("it has no time (claims iat and exp)")


def _from_base64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _to_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encode(header: Mapping[str, Any], claims: object, signature: bytes = b"") -> str:
    text = ".".join(_to_base64(json.dumps(piece).encode()) for piece in (header, claims))
    return f"{text}.{_to_base64(signature)}"


def encode_signed(header: Mapping[str, Any], claims: object, digest: str = "sha256", key: bytes = SIGNING_KEY) -> str:
    text = encode(header, claims).rstrip(".")
    return f"{text}.{_to_base64(hmac.digest(key, text.encode(), digest))}"


def change_payload(company: Company) -> str:
    header, _, signature = company.device.tokens["access_token"].split(".")
    return f"{header}.{_to_base64(json.dumps({**company.claims, 'email': 'root@example.com'}).encode())}.{signature}"


def sign_with_provider(company: Company) -> str:
    return sign({**company.claims}, "rsa")


TOKENS: list[tuple[str, Callable[[Company], str], str]] = [
    (
        "algorithm none",
        lambda company: encode({"alg": "none"}, company.claims),
        INVALID.format("its signature has the algorithm 'none', which is not accepted"),
    ),
    (
        "algorithm None",
        lambda company: encode({"alg": None}, company.claims),
        INVALID.format("its signature has the algorithm 'None', which is not accepted"),
    ),
    (
        "no algorithm",
        lambda company: encode({}, company.claims),
        UNKNOWN_KEY,
    ),
    (
        "algorithm in lower case",
        lambda company: encode_signed({"alg": "hs256"}, company.claims),
        INVALID.format("its signature has the algorithm 'hs256', which is not accepted"),
    ),
    (
        "algorithm HS512",
        lambda company: encode_signed({"alg": "HS512"}, company.claims, "sha512"),
        INVALID.format("its signature has the algorithm 'HS512', which is not accepted"),
    ),
    (
        "key of the provider",
        sign_with_provider,
        INVALID.format("its signature has the algorithm 'RS256', which is not accepted"),
    ),
    (
        "key in the header",
        lambda company: jwt.encode(
            {"alg": "RS256", "jwk": (key := RSAKey.generate_key(2048)).as_dict(private=False)}, company.claims, key
        ),
        UNKNOWN_KEY,
    ),
    ("another secret", lambda company: encode_signed({"alg": "HS256"}, company.claims, key=b"x" * 32), NO_SIGNATURE),
    (
        "the secret itself",
        lambda company: jwt.encode({"alg": "HS256"}, company.claims, OctKey.import_key(SECRET)),
        NO_SIGNATURE,
    ),
    (
        "the key for encryption",
        lambda company: encode_signed(
            {"alg": "HS256"}, company.claims, key=hmac.digest(SECRET.encode(), b"provider token", "sha256")
        ),
        NO_SIGNATURE,
    ),
    ("an empty key", lambda company: encode_signed({"alg": "HS256"}, company.claims, key=b""), NO_SIGNATURE),
    ("no signature", lambda company: encode({"alg": "HS256"}, company.claims), NO_SIGNATURE),
    ("a changed payload", change_payload, NO_SIGNATURE),
    (
        "a shortened signature",
        lambda company: company.device.tokens["access_token"][:-4],
        NO_SIGNATURE,
    ),
    (
        "a critical header",
        lambda company: encode_signed({"alg": "HS256", "crit": ["exp"], "exp": 1}, company.claims),
        NO_SIGNATURE,
    ),
    (
        "another proxy",
        lambda company: company.sign(iss="https://other.example"),
        INVALID.format("it is of another proxy (claim iss)"),
    ),
    ("no issuer", lambda company: company.sign(iss=None), INVALID.format("it is of another proxy (claim iss)")),
    ("expired", lambda company: company.sign(exp=int(time.time()) - 1), EXPIRED),
    ("no expiry", lambda company: company.sign(exp=None), NO_TIME),
    ("an expiry that is a text", lambda company: company.sign(exp="9999999999"), NO_TIME),
    ("an expiry that is a fraction", lambda company: company.sign(exp=9e9), NO_TIME),
    ("no time of issue", lambda company: company.sign(iat=None), NO_TIME),
    (
        "of the future",
        lambda company: company.sign(iat=int(time.time()) + 120),
        INVALID.format("it is of the future (claim iat): compare the clocks of the instances"),
    ),
    ("no sign-in", lambda company: company.sign(sid=None), INVALID.format("it names no sign-in (claim sid)")),
    ("a number as sign-in", lambda company: company.sign(sid=1), INVALID.format("it names no sign-in (claim sid)")),
    ("an unknown sign-in", lambda company: company.sign(sid="sign_0"), ENDED),
    ("an ended sign-in", lambda company: company.ended.tokens["access_token"], ENDED),
    ("the id of the key as sign-in", lambda company: company.sign(sid="key_0"), ENDED),
    ("no audience", lambda company: company.sign(aud=None), UNKNOWN_KEY),
    ("another audience", lambda company: company.sign(aud="anthropic-proxy"), UNKNOWN_KEY),
    ("a list of audiences", lambda company: company.sign(aud=["claude-gateway", "other"]), UNKNOWN_KEY),
    ("four parts", lambda company: company.device.tokens["access_token"] + ".x", UNKNOWN_KEY),
    ("two parts", lambda company: company.device.tokens["access_token"].rpartition(".")[0], UNKNOWN_KEY),
    ("a list as payload", lambda _: encode_signed({"alg": "HS256"}, ["claude-gateway"]), UNKNOWN_KEY),
    ("deep nesting", lambda _: f"eyJhbGciOiJIUzI1NiJ9.{_to_base64(b'[' * 20_000)}.x", UNKNOWN_KEY),
    ("no base64", lambda _: "eyJ!.eyJ!.eyJ!", UNKNOWN_KEY),
    ("the refresh token", lambda company: company.device.tokens["refresh_token"], UNKNOWN_KEY),
    ("the user code", lambda company: company.device.begun["user_code"], UNKNOWN_KEY),
    ("the device code", lambda company: company.device.begun["device_code"], UNKNOWN_KEY),
]


@pytest.mark.parametrize(("forge", "message"), [row[1:] for row in TOKENS], ids=[row[0] for row in TOKENS])
def test_a_false_token_is_refused_on_every_path(
    company: Company, forge: Callable[[Company], str], message: str
) -> None:
    token = forge(company)
    answers = [company.device.send(token), company.proxy.client(headers={"x-api-key": token}).get("/v1/models")]
    for answer in answers:
        assert answer.json()["error"] == {"type": "authentication_error", "message": message}
        assert (answer.status_code, answer.headers["x-should-retry"]) == (401, "false")
    assert company.device.send().status_code == 200


UNSUPPORTED = "grant_type is {}. Use urn:ietf:params:oauth:grant-type:device_code or refresh_token."
EXPIRED_CODE = {
    "error": "expired_token",
    "error_description": "The code is unknown or has expired. Start the sign-in again.",
}
ENDED_GRANT = {"error": "invalid_grant", "error_description": "The sign-in is unknown or has ended. Sign in again."}
Form = dict[str, str]
GRANTS: list[tuple[str, Callable[[Company], Form], Mapping[str, str]]] = [
    (
        "no grant",
        lambda _: {},
        {"error": "unsupported_grant_type", "error_description": UNSUPPORTED.format("''")},
    ),
    (
        "a password",
        lambda _: {"grant_type": "password", "username": "ann", "password": "x"},
        {"error": "unsupported_grant_type", "error_description": UNSUPPORTED.format("'password'")},
    ),
    (
        "an authorization code",
        lambda _: {"grant_type": "authorization_code", "code": "x"},
        {"error": "unsupported_grant_type", "error_description": UNSUPPORTED.format("'authorization_code'")},
    ),
    (
        "no device code",
        lambda _: {"grant_type": DEVICE_GRANT},
        {"error": "invalid_request", "error_description": "The form has no device_code."},
    ),
    ("an unknown device code", lambda _: {"grant_type": DEVICE_GRANT, "device_code": "x" * 43}, EXPIRED_CODE),
    (
        "the user code",
        lambda company: {"grant_type": DEVICE_GRANT, "device_code": company.device.begun["user_code"]},
        EXPIRED_CODE,
    ),
    (
        "the stored hash of a device code",
        lambda company: {
            "grant_type": DEVICE_GRANT,
            "device_code": hashlib.sha256(company.device.begun["device_code"].encode()).hexdigest(),
        },
        EXPIRED_CODE,
    ),
    (
        "the device code of an earlier sign-in",
        lambda company: {"grant_type": DEVICE_GRANT, "device_code": company.ended.begun["device_code"]},
        EXPIRED_CODE,
    ),
    (
        "a pattern of SQL",
        lambda _: {"grant_type": DEVICE_GRANT, "device_code": "' OR '1'='1"},
        EXPIRED_CODE,
    ),
    (
        "no refresh token",
        lambda _: {"grant_type": "refresh_token", "refresh_token": ""},
        {"error": "invalid_request", "error_description": "The form has no refresh_token."},
    ),
    ("an unknown refresh token", lambda _: {"grant_type": "refresh_token", "refresh_token": "x" * 43}, ENDED_GRANT),
    (
        "an access token as refresh token",
        lambda company: {"grant_type": "refresh_token", "refresh_token": company.device.tokens["access_token"]},
        ENDED_GRANT,
    ),
    (
        "the refresh token of an ended sign-in",
        lambda company: {"grant_type": "refresh_token", "refresh_token": company.ended.tokens["refresh_token"]},
        ENDED_GRANT,
    ),
    (
        "a device code as refresh token",
        lambda company: {"grant_type": "refresh_token", "refresh_token": company.device.begun["device_code"]},
        ENDED_GRANT,
    ),
    (
        "many fields",
        lambda _: {f"field{number}": "x" for number in range(21)},
        {"error": "invalid_request", "error_description": "The form has more than 20 fields."},
    ),
]


@pytest.mark.parametrize(("build", "expected"), [row[1:] for row in GRANTS], ids=[row[0] for row in GRANTS])
def test_a_false_grant_is_refused(
    company: Company, build: Callable[[Company], Form], expected: Mapping[str, str]
) -> None:
    answer = company.device.client.post(
        "/oauth/token", data=build(company), headers={"x-forwarded-for": next(ADDRESSES)}
    )
    # a code that was presented a moment ago has to wait first
    if answer.status_code == 429:
        assert answer.json() == {"error": "slow_down"}
        return
    assert (answer.status_code, answer.json()) == (400, expected)
    assert answer.headers["cache-control"] == "no-store"


UNKNOWN_CODE = (
    "No device waits with this code. Compare it with the one that the device shows. After ten minutes, start the "
    "sign-in again there."
)
OTHER_SITE = "The form did not come from the page of this proxy at {url}. Open the link that the device shows."
NO_ATTEMPT = (
    "This browser has no sign-in in progress: it took more than ten minutes, or cookies are blocked. Sign in again."
)
OTHER_STATE = "The response is not of the sign-in that this browser began last. Sign in again."


def find_page_text(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, html.unescape(read_result(answer))


@pytest.mark.parametrize(
    "code", ["BCDF-GHJL", "AEIO-UYAE", "BCDF", "BCDF-GHJK-LMNP", "%' --", "ＢＣＤＦ-ＧＨＪＫ", "ßßßß"]
)
def test_a_false_user_code_is_refused(company: Company, code: str) -> None:
    client = company.proxy.client(headers={"x-forwarded-for": next(ADDRESSES)})
    assert find_page_text(client.get("/device", params={"user_code": code})) == (404, UNKNOWN_CODE)
    answer = client.post("/device", data={"user_code": code, "action": "confirm"}, headers=SAME_ORIGIN)
    assert find_page_text(answer) == (404, UNKNOWN_CODE)


def test_user_codes_are_limited_by_address(company: Company) -> None:
    client, begun = (
        company.proxy.client(headers={"x-forwarded-for": next(ADDRESSES)}),
        Device(company.proxy, next(ADDRESSES)).begin(),
    )
    statuses = [client.get("/device", params={"user_code": "BCDF-GHJL"}).status_code for _ in range(301)]
    assert statuses == [404] * 300 + [429]
    status, text = find_page_text(client.get("/device", params={"user_code": begun["user_code"]}))
    assert (status, text.partition(" Wait")[0]) == (429, "Several codes from your address were wrong.")
    assert Browser(company.proxy, next(ADDRESSES)).open(begun).status_code == 200


def test_a_code_is_confirmed_five_times_at_most(company: Company) -> None:
    browser, code = Browser(company.proxy, next(ADDRESSES)), Device(company.proxy, next(ADDRESSES)).begin()["user_code"]
    assert [browser.confirm(code).status_code for _ in range(5)] == [303] * 5
    text = "The code was confirmed too often. Start the sign-in again on the device."
    assert find_page_text(browser.confirm(code)) == (429, text)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": "{url}"},
        {"origin": "{url}.evil.example"},
        {"host": "evil.example", "origin": "http://evil.example"},
        {"referer": "{url}/device"},
    ],
    ids=str,
)
@pytest.mark.parametrize("action", ["confirm", "approve", "deny"])
def test_a_form_of_another_page_is_refused(company: Company, headers: dict[str, str], action: str) -> None:
    device, browser, url = (
        Device(company.proxy, next(ADDRESSES)),
        Browser(company.proxy, next(ADDRESSES)),
        company.proxy.url,
    )
    sent = {name: value.replace("{url}", url) for name, value in headers.items()}
    answer = browser.confirm(device.begin()["user_code"], action, sent)
    assert find_page_text(answer) == (403, OTHER_SITE.format(url=url))
    assert device.poll().json() == {"error": "authorization_pending"}


def begin(company: Company) -> tuple[Device, Browser, str]:
    device, browser = Device(company.proxy, next(ADDRESSES)), Browser(company.proxy, next(ADDRESSES))
    return device, browser, browser.follow(browser.confirm(device.begin()["user_code"]))


def change_query(address: str, **changes: str | None) -> str:
    url = httpx.URL(address)
    values = {**dict(url.params), **changes}
    return str(url.copy_with(params={name: value for name, value in values.items() if value is not None}))


CALLBACKS: list[tuple[str, Callable[[str], str], int, str]] = [
    ("no state", lambda url: change_query(url, state=None), 403, OTHER_STATE),
    ("another state", lambda url: change_query(url, state="x" * 32), 403, OTHER_STATE),
    (
        "another issuer",
        lambda url: change_query(url, iss="https://evil.example"),
        403,
        "The response is of another identity provider (parameter iss). Sign in again.",
    ),
    (
        "no issuer",
        lambda url: change_query(url, iss=None),
        403,
        "The response is of another identity provider (parameter iss). Sign in again.",
    ),
    (
        "no code",
        lambda url: change_query(url, code=None),
        403,
        "The response of the identity provider contains no code. Sign in again.",
    ),
    (
        "another code",
        lambda url: change_query(url, code="x" * 22),
        403,
        "The identity provider does not accept the code: it was used before, or it has expired. Sign in again.",
    ),
    (
        "a long code",
        lambda url: change_query(url, code="x" * 5_000),
        403,
        "The response of the identity provider contains no code. Sign in again.",
    ),
    (
        "an error",
        lambda url: change_query(url, error="access_denied", error_description="not today"),
        403,
        "The identity provider refused the sign-in: not today. Sign in again.",
    ),
]


@pytest.mark.parametrize(
    ("change", "status", "message"), [row[1:] for row in CALLBACKS], ids=[row[0] for row in CALLBACKS]
)
def test_a_false_response_of_the_provider_is_refused(
    company: Company, change: Callable[[str], str], status: int, message: str
) -> None:
    device, browser, address = begin(company)
    answer = browser.client.get(change(address))
    assert (answer.status_code, message in html.unescape(answer.text)) == (status, True), answer.text
    assert device.poll().json() == {"error": "authorization_pending"}


def test_a_response_is_accepted_only_in_the_browser_that_began(company: Company) -> None:
    device, _, address = begin(company)
    answer = Browser(company.proxy, next(ADDRESSES)).client.get(address)
    assert (answer.status_code, NO_ATTEMPT in html.unescape(answer.text)) == (403, True)
    assert device.poll().json() == {"error": "authorization_pending"}


def test_a_response_is_accepted_once(company: Company) -> None:
    device, browser, address = begin(company)
    cookie = browser.client.cookies["anthropic_proxy_oidc"]
    page = browser.client.get(address)
    assert page.status_code == 200
    again = company.proxy.client(headers={"cookie": f"anthropic_proxy_oidc={cookie}"}).get(address)
    assert find_page_text(again) == (403, "This sign-in was completed before, or was canceled. Sign in again.")
    assert browser.decide(page).status_code == 200
    assert device.poll().status_code == 200


@pytest.mark.parametrize("part", [0, 1, 2, 3, 4, 5])
def test_a_changed_cookie_is_refused(company: Company, part: int) -> None:
    device, browser, address = begin(company)
    parts = browser.client.cookies["anthropic_proxy_oidc"].split(".")
    parts[part] = "dashboard" if part == 4 else parts[part][:-1] + ("A" if parts[part][-1] != "A" else "B")
    forged = company.proxy.client(headers={"cookie": f"anthropic_proxy_oidc={'.'.join(parts)}"})
    answer = forged.get(address)
    assert (answer.status_code, NO_ATTEMPT in html.unescape(answer.text)) == (403, True)
    assert device.poll().json() == {"error": "authorization_pending"}


def test_a_cookie_that_the_secret_of_the_provider_signs_is_refused(company: Company) -> None:
    device, browser, address = begin(company)
    signed = browser.client.cookies["anthropic_proxy_oidc"].partition(".")[2]
    key = f"sign-in\n{company.provider.issuer}\nanthropic-proxy\ns+cret/of the client".encode()
    signature = hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()
    forged = company.proxy.client(headers={"cookie": f"anthropic_proxy_oidc={signature}.{signed}"})
    answer = forged.get(address)
    assert (answer.status_code, NO_ATTEMPT in html.unescape(answer.text)) == (403, True)
    assert device.poll().json() == {"error": "authorization_pending"}
