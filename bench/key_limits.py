"""Cost of virtual keys, budgets and Redis: the proxy with them beside the proxy without, everything else the same."""

import shutil
from functools import partial
from pathlib import Path

from msgspec import structs

from anthropic_proxy.console.keys.administration import KeyAdministration, KeyCommand
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from bench.processes import Process, free_port
from bench.subjects import Subject, bare_environment, start_proxy
from bench.wires import CHAT

TITLE = "Keys and limits"
STEPS = ("1 KB", "120 KB", "alone")
"""Steps in which each subject is measured, as `bench.measures` names it."""
_HUGE = 10**9
_LIMITS = Rules(
    requests_per_minute=_HUGE, tokens_per_minute=_HUGE, concurrency=_HUGE, budgets=(Budget(_HUGE, "tokens", "total"),)
)
_keys: dict[str, str] = {}
"""Name of a subject → its key, after its start."""


class _WithRedis(Process):
    """A proxy with a Redis server, which stops after it. The CPU time of the server is not included."""

    redis: Process

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.redis.__exit__(*error)


def _start(directory: Path, port: int, upstream: int, *, name: str, rules: Rules, uses_redis: bool) -> Process:
    folder = directory / f"keys-{port}" / "anthropic-proxy"
    connection = open_for_writing(Settings(data_directory=folder))
    command = KeyCommand(action="create", fields={"label": "bench", **structs.asdict(rules)})
    _keys[name] = KeyAdministration(connection, "bench").execute(command).text
    connection.close()
    settings = {
        **CHAT.settings,
        "VIRTUAL_KEYS": "true",
        "XDG_DATA_HOME": str(folder.parent),
        "DATABASE_URL": f"sqlite:///{folder.absolute()}/ledger.sqlite3",
    }
    if not uses_redis:
        return start_proxy(directory, port, upstream, settings=settings)
    redis_port = free_port()
    command = ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    redis = Process(command, directory, bare_environment(), f"redis-{port}", directory)
    settings["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}/0"
    found = start_proxy(directory, port, upstream, settings=settings)
    found.__class__ = _WithRedis
    assert isinstance(found, _WithRedis)
    found.redis = redis
    return found


def _subject(name: str, rules: Rules, *, uses_redis: bool = False) -> Subject:
    return Subject(
        name=name,
        start=partial(_start, name=name, rules=rules, uses_redis=uses_redis),
        translates=True,
        model=CHAT.model,
        separates=True,
        optional=uses_redis,
        find_key=lambda: _keys.get(name, ""),
    )


BASE = Subject(name="without keys", start=start_proxy, translates=True, model=CHAT.model, separates=True)
SUBJECTS = (
    BASE,
    Subject(
        name="no change (measured again, as a baseline for the other rows)",
        start=start_proxy,
        translates=True,
        model=CHAT.model,
        separates=True,
    ),
    _subject("a virtual key without limits", Rules()),
    _subject("a key with limits of requests and concurrency", Rules(requests_per_minute=_HUGE, concurrency=_HUGE)),
    _subject("a key with four limits: requests, tokens, concurrency, a budget", _LIMITS),
    *([_subject("the same four limits in Redis", _LIMITS, uses_redis=True)] if shutil.which("redis-server") else []),
)
