"""Documents of the identity provider: keys that are not understood, sign-ins at the same time, and failed requests."""

import asyncio

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from anthropic_proxy.console.identity.oidc_client import verify_id_token
from anthropic_proxy.console.identity.people import OidcError
from anthropic_proxy.console.identity.signed_tokens import (
    CACHE_SECONDS,
    MIN_DOUBT_SECONDS,
    RETRY_SECONDS,
    CachedDocument,
    InvalidTokenError,
    KeyMismatch,
    PublishedKeys,
    check_signature,
    decode_key_set,
)

USABLE = RSAKey.generate_key(2048, {"kid": "usable", "use": "sig"})
SUCCESSOR = RSAKey.generate_key(2048, {"kid": "usable", "use": "sig"})
STRANGER = RSAKey.generate_key(2048, {"kid": "usable", "use": "sig"})


def test_keys_that_are_not_understood_are_ignored() -> None:
    unknown = [
        {"kty": "EC", "crv": "P-0", "x": "AA", "y": "AA", "kid": "a"},
        {"kty": "OKP", "crv": "X448", "x": "AA", "kid": "b"},
        {"kty": "RSA", "e": "AQAB", "kid": "c"},
        {"kty": "oct", "k": "AA", "kid": "d"},
        "no key",
    ]
    found = decode_key_set({"keys": [*unknown, USABLE.as_dict(private=False)]})
    assert [key.kid for key in found.keys] == ["usable"]
    with pytest.raises(OidcError, match="no usable keys for signatures"):
        decode_key_set({"keys": unknown})


def test_keys_that_would_make_checks_slow_are_ignored() -> None:
    usable = USABLE.as_dict(private=False)
    large = [{**usable, "kid": "n", "n": "A" * 100_000}, {**usable, "kid": "e", "e": "A" * 1_000}]
    found = decode_key_set({"keys": [*large, *({**usable, "kid": str(number)} for number in range(10_000))]})
    assert [key.kid for key in found.keys] == [str(number) for number in range(98)]


async def test_a_slow_provider_delays_nobody_whose_document_is_known() -> None:
    now, answer, asked = [0.0], asyncio.Event(), asyncio.Event()
    answer.set()
    number = iter(range(9))

    async def load() -> str:
        asked.set()
        await answer.wait()
        return f"document {next(number)}"

    document = CachedDocument(load, lambda: now[0])
    known = await document.find_or_request()
    assert known == "document 0"
    answer.clear()
    asked.clear()
    for_unknown_key = asyncio.create_task(document.find_newer(known))
    await asked.wait()
    async with asyncio.timeout(0):
        assert await document.find_or_request() == "document 0"
        now[0] += CACHE_SECONDS
        assert await document.find_or_request() == "document 0", "also an old one"
    answer.set()
    assert await for_unknown_key == "document 1"


def test_an_id_token_is_not_accepted_without_a_nonce_of_the_sign_in() -> None:
    keys = decode_key_set({"keys": [USABLE.as_dict(private=False)]})
    with pytest.raises(InvalidTokenError, match="its nonce is not that of this sign-in"):
        verify_id_token("x", keys, issuer="i", client_id="c", nonce="", access_token="", now=0.0)


async def test_sign_ins_at_the_same_time_cause_one_request_also_if_it_fails() -> None:
    now, requests, answers = [0.0], list[str](), [OidcError("unreachable", status=502), "first", OidcError("down")]

    async def load() -> str:
        requests.append("request")
        await asyncio.sleep(0)
        answer = answers.pop(0)
        if isinstance(answer, OidcError):
            raise answer
        return answer

    document = CachedDocument(load, lambda: now[0])
    failed = await asyncio.gather(*(document.find_or_request() for _ in range(20)), return_exceptions=True)
    assert {(str(error), getattr(error, "status", 0)) for error in failed} == {("unreachable", 502)}
    assert len(requests) == 1
    now[0] += RETRY_SECONDS
    assert await asyncio.gather(*(document.find_or_request() for _ in range(20))) == ["first"] * 20
    assert len(requests) == 2
    now[0] += CACHE_SECONDS
    assert await asyncio.gather(*(document.find_or_request() for _ in range(20))) == ["first"] * 20, "it stays in use"
    assert len(requests) == 3


def sign(key: RSAKey) -> str:
    private = RSAKey.import_key({name: value for name, value in key.as_dict(private=True).items() if name != "use"})
    return jwt.encode({"alg": "RS256", "kid": "usable"}, {"sub": "ann"}, private)


class Issuer:
    """An issuer with one key, whose name never changes."""

    def __init__(self) -> None:
        self.key = USABLE
        self.requests = 0
        self.now = 0.0
        self.published = PublishedKeys(self.load, lambda: self.now)

    async def load(self) -> KeySet:
        self.requests += 1
        await asyncio.sleep(0)
        return decode_key_set({"keys": [self.key.as_dict(private=False)]})

    async def accepts(self, token: str) -> bool:
        try:
            await self.published.check(lambda keys: check_signature(token, keys, needs_key_id=True))
        except KeyMismatch:
            return False
        return True


async def test_a_key_that_changes_under_its_name_is_read_again_by_many_sign_ins_once() -> None:
    issuer = Issuer()
    assert await issuer.accepts(sign(USABLE))
    issuer.key = SUCCESSOR
    assert all(await asyncio.gather(*(issuer.accepts(sign(SUCCESSOR)) for _ in range(20))))
    assert issuer.requests == 2
    assert not await issuer.accepts(sign(USABLE)), "the provider has withdrawn it"


async def test_false_tokens_cause_one_request_a_minute_and_delay_a_changed_key_by_no_more() -> None:
    issuer, false = Issuer(), sign(STRANGER)
    assert await issuer.accepts(sign(USABLE))
    for second in range(int(MIN_DOUBT_SECONDS)):
        issuer.now = float(second)
        assert not any(await asyncio.gather(*(issuer.accepts(false) for _ in range(10))))
    assert issuer.requests == 2
    issuer.key = SUCCESSOR
    assert not await issuer.accepts(sign(SUCCESSOR))
    issuer.now += 1.0
    assert await issuer.accepts(sign(SUCCESSOR))
    assert issuer.requests == 3
