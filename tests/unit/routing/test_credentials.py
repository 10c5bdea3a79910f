import pytest

from anthropic_proxy.errors import AuthenticationFailed, UpstreamError
from anthropic_proxy.routing.credentials import RATE_LIMIT_COOLDOWN_SECONDS, Credentials
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.routing.router import describe_missing_key
from anthropic_proxy.settings import load_settings

GROQ, OPENAI = PROVIDERS.find("groq"), PROVIDERS.find("openai")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def load(**environ):
    return load_settings(environ, PROVIDERS, env_file=None)


def failed(status, retry_after=None):
    return UpstreamError("no", status=status, retry_after=retry_after)


def values(pool, times, provider=GROQ):
    return [pool.next_credential(provider).value.removeprefix("Bearer ") for _ in range(times)]


@pytest.mark.parametrize(
    ("name", "header", "value"),
    [
        ("openai", "authorization", "Bearer k"),
        ("groq", "authorization", "Bearer k"),
        ("moonshot", "authorization", "Bearer k"),
        ("xai", "authorization", "Bearer k"),
        ("google", "x-goog-api-key", "k"),
        ("anthropic", "x-api-key", "k"),
    ],
)
def test_a_key_becomes_the_header_that_its_provider_reads(name, header, value):
    row = PROVIDERS.find(name)
    credential = Credentials(load(**{row.key_variable: "k"})).next_credential(row)
    assert (credential.header, credential.value) == (header, value)
    assert credential.origin == f"{row.key_variable} in the environment"
    assert "Bearer k" not in repr(credential)


@pytest.mark.parametrize(
    "row", [row for row in PROVIDERS if row.key_variable and row.key_required != "never"], ids=lambda row: row.name
)
def test_a_missing_key_is_a_401_that_names_the_variable_and_asks_for_no_retry(row):
    with pytest.raises(AuthenticationFailed) as caught:
        Credentials(load(PROXY_API_KEY="a-key-of-this-proxy")).next_credential(row)
    assert (caught.value.status, caught.value.error_type, caught.value.should_retry) == (
        401,
        "authentication_error",
        False,
    )
    assert f"{row.key_variable} is not set" in caught.value.message


def test_without_a_key_of_the_proxy_anthropic_judges_the_clients_own():
    assert Credentials(load()).next_credential(PROVIDERS.find("anthropic")) is None


@pytest.mark.parametrize("name", ["ollama", "vertex", "demo"])
def test_some_need_no_key(name):
    assert Credentials(load()).next_credential(PROVIDERS.find(name)) is None


def test_a_compatible_server_of_the_user_s_is_called_without_a_key():
    settings = load(OPENAI_BASE_URL="http://localhost:8000/v1", GROQ_BASE_URL="http://localhost:8000/v1")
    assert Credentials(settings).next_credential(OPENAI) is None
    assert describe_missing_key(OPENAI, settings) == ""
    assert "GROQ_API_KEY" in describe_missing_key(GROQ, settings)


def test_several_keys_are_used_in_turn():
    assert values(Credentials(load(GROQ_API_KEY="a,b,c")), 5) == ["a", "b", "c", "a", "b"]


def test_providers_rotate_their_keys_separately():
    pool = Credentials(load(GROQ_API_KEY="a,b", OPENAI_API_KEY="x,y"))
    assert [*values(pool, 1), *values(pool, 1, OPENAI), *values(pool, 1)] == ["a", "x", "b"]


@pytest.mark.parametrize("status", [401, 402, 403, 429])
def test_another_key_is_tried_where_this_one_is_at_fault_and_each_once(status):
    pool = Credentials(load(GROQ_API_KEY="a,b,c"), clock=Clock())
    tried = []
    while True:
        credential = pool.next_credential(GROQ)
        tried.append(credential.value[-1])
        if not pool.exclude_failed_key(GROQ, credential, failed(status)):
            break
    assert tried == ["a", "b", "c"]


@pytest.mark.parametrize("status", [400, 404, 500, 529])
def test_another_key_would_not_help_where_the_key_is_not_at_fault(status):
    pool = Credentials(load(GROQ_API_KEY="a,b"))
    assert not pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), failed(status))
    assert values(pool, 2) == ["b", "a"]


def test_a_single_key_is_never_paused():
    pool = Credentials(load(GROQ_API_KEY="a"))
    assert not pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), failed(429, retry_after=60))
    assert values(pool, 2) == ["a", "a"]
    assert not pool.exclude_failed_key(GROQ, None, failed(401))


def test_a_key_over_its_limit_is_paused_for_the_time_of_the_provider():
    clock = Clock()
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=clock)
    assert pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), failed(429, retry_after=7))
    assert values(pool, 3) == ["b", "b", "b"]
    clock.now += 7
    assert set(values(pool, 2)) == {"a", "b"}


def test_if_all_keys_are_paused_the_first_to_return_is_used():
    clock = Clock()
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=clock)
    assert pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), failed(429, retry_after=90))
    assert not pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), failed(429))
    assert values(pool, 2) == ["b", "b"]
    clock.now += RATE_LIMIT_COOLDOWN_SECONDS
    assert values(pool, 2) == ["b", "b"]
