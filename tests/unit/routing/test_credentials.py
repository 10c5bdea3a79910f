import asyncio
import json
import sys
import threading

import pytest

from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.providers.credentials import (
    RATE_LIMIT_COOLDOWN_SECONDS,
    REJECTED_KEY_COOLDOWN_SECONDS,
    UNCHANGED_KEY_RETRY_SECONDS,
    Credentials,
)
from anthropic_proxy.engine.providers.hosts import find_missing_key
from anthropic_proxy.errors import AuthenticationFailed, ConfigurationError, UpstreamError
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.settings.key_references import read_key_again

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


REJECTION = failed(401)


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
    assert find_missing_key(OPENAI, settings) is None
    missing = find_missing_key(GROQ, settings)
    assert missing is not None
    assert "GROQ_API_KEY" in missing.text


def test_several_keys_are_used_in_turn():
    assert values(Credentials(load(GROQ_API_KEY="a,b,c")), 5) == ["a", "b", "c", "a", "b"]


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


def test_a_key_over_its_limit_is_paused_for_the_time_of_the_provider():
    clock = Clock()
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=clock)
    assert pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), failed(429, retry_after=7))
    assert values(pool, 3) == ["b", "b", "b"]
    clock.now += 7
    assert set(values(pool, 2)) == {"a", "b"}


def exceed(pool, clock, limited):
    """Let a key exceed its limit, and let the time of its pause pass, whose seconds are returned."""
    assert pool.exclude_failed_key(GROQ, limited, failed(429))
    (seconds,) = pool.list_cooldown_seconds("groq")
    clock.now += seconds
    return seconds


def test_a_key_that_stays_over_its_limit_is_paused_for_twice_the_time_until_a_call_succeeds():
    clock = Clock()
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=clock)
    limited = pool.next_credential(GROQ)
    assert [exceed(pool, clock, limited) for _ in range(7)] == [20, 40, 80, 160, 320, 600, 600]
    pool.record_success(GROQ, limited)
    assert exceed(pool, clock, limited) == 20


def test_a_reload_forgets_neither_a_pause_nor_its_length():
    clock = Clock()
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=clock)
    limited = pool.next_credential(GROQ)
    assert pool.exclude_failed_key(GROQ, limited, failed(429))
    reloaded = Credentials(load(GROQ_API_KEY="b,a,c"), clock=clock)
    reloaded.copy_state_from(pool)
    assert "a" not in values(reloaded, 6)
    clock.now += 20
    assert exceed(reloaded, clock, limited) == 40


def test_calls_that_a_limit_rejects_at_the_same_time_pause_the_key_once():
    clock = Clock()
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=clock)
    limited = pool.next_credential(GROQ)
    for _ in range(5):
        assert pool.exclude_failed_key(GROQ, limited, failed(429))
    assert pool.list_cooldown_seconds("groq") == [20]


def test_after_a_stated_wait_a_limit_without_one_pauses_the_key_for_twice_that_time():
    clock = Clock()
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=clock)
    limited = pool.next_credential(GROQ)
    assert pool.exclude_failed_key(GROQ, limited, failed(429, retry_after=90))
    clock.now += 90
    assert pool.exclude_failed_key(GROQ, limited, failed(429))
    assert pool.list_cooldown_seconds("groq") == [180]


def used_up(status=429):
    error = failed(status)
    error.states_account = True
    return error


def first_keys(pool, *clients):
    """The key that each client's next request would have, if the last request of anybody had the second one."""
    firsts = []
    for client in clients:
        pool._next_positions.clear()
        firsts.append(pool.next_credential(GROQ, client=client).value[-1])
    return firsts


@pytest.mark.parametrize(("status", "seconds"), [(402, 600), (403, 600), (429, 20)])
def test_a_key_that_one_request_may_have_exceeded_is_paused_for_its_client_until_a_second_one_confirms_it(
    status, seconds
):
    clock = Clock()
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=clock)
    limited = pool.next_credential(GROQ)
    for repetition in range(3):
        assert pool.exclude_failed_key(GROQ, limited, failed(status), "ann")
        own_seconds = seconds if status != 429 else seconds * 2**repetition
        assert first_keys(pool, "ann", "bob", "") == ["b", "a", "a"]
        assert (pool.list_cooldown_seconds("groq"), pool.cooldown_count()) == ([], 1)
        assert pool.list_cooldown_seconds("groq", "ann") == [own_seconds]
        clock.now += own_seconds
        assert first_keys(pool, "ann") == ["a"]
    assert pool.exclude_failed_key(GROQ, limited, failed(status), "bob")
    assert first_keys(pool, "ann", "bob") == ["a", "b"], "the pause of ann has ended: bob is the first"
    clock.now += seconds - 1
    assert pool.exclude_failed_key(GROQ, limited, failed(status), "cid")
    assert first_keys(pool, "ann", "bob", "cid", "") == ["b", "b", "b", "b"]
    assert pool.list_cooldown_seconds("groq") == [seconds], "not doubled by the repetitions of ann"
    clock.now += seconds
    for _ in range(3):
        assert pool.exclude_failed_key(GROQ, limited, failed(status), "cid")
        assert pool.list_cooldown_seconds("groq") == [], "nor by those of cid afterwards"


@pytest.mark.parametrize("error", [failed(401), used_up(), used_up(402), used_up(403)])
def test_a_key_that_is_rejected_or_used_up_whatever_the_request_was_is_paused_for_all(error):
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=Clock())
    assert pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), error, "ann")
    assert first_keys(pool, "ann", "bob", "") == ["b", "b", "b"]


def test_a_client_whose_request_every_key_refuses_takes_no_key_from_others():
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=Clock())
    assert pool.exclude_failed_key(GROQ, pool.next_credential(GROQ, client="ann"), failed(429), "ann")
    assert not pool.exclude_failed_key(GROQ, pool.next_credential(GROQ, client="ann"), failed(429), "ann")
    assert pool.next_credential(GROQ, client="ann").value[-1] == "a", "all are paused for it: the first to return"
    assert sorted(pool.next_credential(GROQ, client="bob").value[-1] for _ in range(4)) == ["a", "a", "b", "b"]


def test_workers_that_hear_of_two_clients_pause_the_key_for_all():
    workers = [Credentials(load(GROQ_API_KEY="a,b"), clock=Clock()) for _ in range(3)]
    sent = []
    for worker in workers:
        worker.publish_to(lambda *cooldown: sent.append(cooldown))
    for worker, client in zip(workers, ("ann", "bob"), strict=False):
        assert worker.exclude_failed_key(GROQ, worker.next_credential(GROQ), failed(429), client)
    assert sent == [("a", 20, "ann"), ("a", 20, "bob")]
    for worker, heard in zip(workers, (sent[1:], sent[:1], sent), strict=True):
        for cooldown in heard:
            worker.start_cooldown(*cooldown)
    assert [first_keys(worker, "cid") for worker in workers] == [["b"]] * 3


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_rejected_key_is_paused_for_its_own_time_whatever_wait_is_stated(status):
    clock = Clock()
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=clock)
    assert pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), failed(status, retry_after=7))
    clock.now += REJECTED_KEY_COOLDOWN_SECONDS - 1
    assert values(pool, 2) == ["b", "b"]
    clock.now += 1
    assert set(values(pool, 2)) == {"a", "b"}


def test_if_all_keys_are_paused_the_first_to_return_is_used():
    clock = Clock()
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=clock)
    assert pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), failed(429, retry_after=90))
    assert not pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), failed(429))
    assert values(pool, 2) == ["b", "b"]
    clock.now += RATE_LIMIT_COOLDOWN_SECONDS
    assert values(pool, 2) == ["b", "b"]


def test_an_error_that_only_its_text_explains_pauses_no_key_and_needs_another_one_that_is_not_paused():
    clock = Clock()
    pool = Credentials(load(GROQ_API_KEY="a,b"), clock=clock)
    said = failed(429)
    said.stated_status = 400
    assert pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), said)
    assert pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), failed(429, retry_after=7))
    assert not pool.exclude_failed_key(GROQ, pool.next_credential(GROQ), said), "b is paused: a would be sent again"
    assert (values(pool, 2), pool.cooldown_count()) == (["a", "a"], 1)
    clock.now += 7
    assert set(values(pool, 2)) == {"a", "b"}


def with_key_file(tmp_path, entry='{ file = "key" }', hidden=None):
    hidden = [] if hidden is None else hidden
    (tmp_path / "key").write_text("sk-first-0123456789", encoding="utf-8")
    (tmp_path / "anthropic-proxy.toml").write_text(
        f'[providers.gateway]\nbase_url = "http://127.0.0.1:9/v1"\napi_key = {entry}\n', encoding="utf-8"
    )
    settings = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"), resolves_keys=True)
    clock, problems = Clock(), []
    pool = Credentials(
        settings, read_key=read_key_again, on_new_key=hidden.append, on_problem=problems.append, clock=clock
    )
    return find_registry(settings).find("gateway"), pool, clock, problems


def rotate(tmp_path):
    (tmp_path / "key").write_text("sk-second-0123456789\n", encoding="utf-8")


async def test_a_rejected_key_is_read_again_once_for_all_requests_that_sent_it(tmp_path):
    hidden = []
    provider, pool, _, _ = with_key_file(tmp_path, hidden=hidden)
    rejected = pool.next_credential(provider)
    rotate(tmp_path)
    assert (
        await asyncio.gather(*(pool.replace_rejected_key(provider, rejected, REJECTION) for _ in range(20)))
        == [True] * 20
    )
    assert values(pool, 2, provider) == ["sk-second-0123456789"] * 2
    assert hidden == ["sk-second-0123456789"]
    (tmp_path / "key").unlink()
    assert await pool.replace_rejected_key(provider, rejected, REJECTION)  # a late 401 of the first key


async def test_a_limited_wait_ends_before_the_read_and_later_requests_do_not_wait(tmp_path):
    provider, pool, clock, _ = with_key_file(tmp_path)
    rejected, released = pool.next_credential(provider), threading.Event()

    def read(source):
        released.wait(10)
        return read_key_again(source)

    pool = Credentials(pool._settings, read_key=read, clock=clock)
    rotate(tmp_path)
    assert not await pool.replace_rejected_key(provider, rejected, REJECTION, max_seconds=0.01)
    clock.now += 60
    assert not await pool.replace_rejected_key(provider, rejected, REJECTION, max_seconds=60)
    released.set()
    assert await pool.replace_rejected_key(provider, rejected, REJECTION)
    assert values(pool, 1, provider) == ["sk-second-0123456789"]


async def test_a_key_that_has_not_changed_is_not_read_again_for_each_request(tmp_path):
    script = f"open({str(tmp_path / 'runs')!r}, 'a').write('x'); print('sk-0123456789')"
    command = json.dumps([sys.executable, "-c", script])
    provider, pool, clock, _ = with_key_file(tmp_path, f"{{ command = {command} }}")
    rejected = pool.next_credential(provider)
    for _ in range(3):
        assert not await pool.replace_rejected_key(provider, rejected, REJECTION)
    assert (tmp_path / "runs").read_text() == "xx"
    clock.now += UNCHANGED_KEY_RETRY_SECONDS
    assert not await pool.replace_rejected_key(provider, rejected, REJECTION)
    assert (tmp_path / "runs").read_text() == "xxx"


@pytest.mark.parametrize(("refresh", "seconds"), [("3000s", 3000), ("50m", 3000), ("12h", 43_200), ("1d", 86_400)])
async def test_a_key_is_read_again_after_its_refresh_time_while_the_old_one_serves(tmp_path, refresh, seconds):
    provider, pool, clock, _ = with_key_file(tmp_path, f'{{ file = "key", refresh = "{refresh}" }}')
    rotate(tmp_path)
    clock.now += seconds - 1
    assert values(pool, 1, provider) == ["sk-first-0123456789"]
    clock.now += 1
    assert values(pool, 2, provider) == ["sk-first-0123456789"] * 2
    await asyncio.gather(*pool._reads.values())
    assert values(pool, 1, provider) == ["sk-second-0123456789"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty."),
        ("two\nlines", "contains a space, a line break or a letter outside ASCII, which is invalid in a key."),
    ],
)
async def test_a_key_that_cannot_be_read_again_keeps_the_old_one(tmp_path, text, problem):
    provider, pool, _, problems = with_key_file(tmp_path)
    (tmp_path / "key").write_text(text, encoding="utf-8")
    assert not await pool.replace_rejected_key(provider, pool.next_credential(provider), REJECTION)
    assert values(pool, 1, provider) == ["sk-first-0123456789"]
    where = f"providers.gateway.api_key in {tmp_path / 'anthropic-proxy.toml'}, line 3"
    assert problems == [
        f"gateway: the key is unchanged, because it could not be read again: the file key ({where}) {problem}"
    ]


async def test_a_key_of_a_variable_is_not_read_again():
    pool = Credentials(load(OPENAI_API_KEY="k"))
    assert not await pool.replace_rejected_key(OPENAI, pool.next_credential(OPENAI), REJECTION)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ('{ file = "key", refresh = "soon" }', 'is "soon". Use a duration such as 30s, 50m, 12h or 1d.'),
        ('{ file = "key", refresh = "0m" }', 'is "0m". Use a duration such as 30s, 50m, 12h or 1d.'),
        (
            '{ env = "GATEWAY_KEY", refresh = "50m" }',
            "has no effect. It is for a file or command with the key of a provider.",
        ),
    ],
)
def test_an_invalid_refresh_time_ends_the_start(tmp_path, entry, problem):
    with pytest.raises(ConfigurationError) as caught:
        with_key_file(tmp_path, entry)
    where = f"providers.gateway.api_key in {tmp_path / 'anthropic-proxy.toml'}, line 3"
    assert str(caught.value) == f"The field refresh of {where}, {problem}"
