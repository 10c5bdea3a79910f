"""`running_fleet`: instances of the proxy behind nginx, with PostgreSQL, Redis and two strict fake providers."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fleet.programs import THIS_VERSION, Instance, Program, Version, new_nginx, reserve_ports
from tests.support.fakes import openai_chat, searxng
from tests.support.fakes.server import Running, serving
from tests.support.postgres import Postgres, find_programs, running_postgres
from tests.support.process_checks import is_refused
from tests.support.redis import RedisServer, running_redis
from tests.support.waiting import WAIT_SECONDS, wait_for

CONFIGURATION = """\
[providers.backup]
base_url = "{url}/v1"
api_key = {{ env = "BACKUP_KEY" }}
"""


@dataclass(frozen=True)
class Fleet:
    """The running parts."""

    url: str
    """Address of nginx."""
    instances: list[Instance]
    redis: RedisServer
    postgres: Postgres
    providers: list[Running]
    settings: Mapping[str, str]
    """Settings of each instance."""
    directory: Path

    def run_command(self, *words: str, version: Version = THIS_VERSION) -> str:
        """Run a command of the proxy with the settings of the instances. Return its standard output."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "ANTHROPIC_PROXY_CONFIG": str(self.directory),
            "PYTHONPATH": str(version.checkout),
        }
        done = subprocess.run(
            [version.python, "-m", "anthropic_proxy", *words],
            cwd=self.directory,
            env={**environment, **self.settings},
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@contextmanager
def running_fleet(
    count: int, own: Mapping[str, str], first: Version | None = None, *, table: str = "", dotenv: str = ""
) -> Iterator[Fleet]:
    """Start all parts and wait until the instances are ready. `own`: further settings of the instances, in which
    `{port}` stands for the port of nginx. `table`: a further table of their configuration file. `dotenv`: text of
    their `.env`.

    `first`: version of the first instance; the others are then not started. None: this one.
    """
    programs = find_programs()
    assert programs is not None
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-")))
        postgres = stack.enter_context(running_postgres(programs))
        providers = [stack.enter_context(serving(openai_chat.new_openai())) for _ in range(2)]
        pages = searxng.Searxng([searxng.result("https://brie.test/")])
        search = stack.enter_context(serving(searxng.new_searxng(pages)))
        front, *ports = reserve_ports(stack, count + 1)
        redis = stack.enter_context(running_redis("--appendonly", "yes"))
        settings = {
            "OPENAI_API_KEY": openai_chat.KEY,
            "OPENAI_BASE_URL": f"{providers[0].url}/v1",
            "OPENAI_WIRE": "chat",
            "MODEL_HAIKU": "openai/gpt-4.1-mini",
            "FALLBACK_HAIKU": "backup/gpt-4.1-mini",
            "BACKUP_KEY": openai_chat.KEY,
            "SEARCH_URL": search.url,
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
            **{name: value.replace("{port}", str(front)) for name, value in own.items()},
        }
        versions = [first or THIS_VERSION, *[THIS_VERSION] * (count - 1)]
        instances = [
            Instance(number, port, directory, settings, version)
            for number, (port, version) in enumerate(zip(ports, versions, strict=True))
        ]
        for instance in instances:
            file = instance.log_file.parent / "anthropic-proxy.toml"
            file.write_text(CONFIGURATION.format(url=providers[1].url) + table, "utf-8")
            file.with_name(".env").write_text(dotenv, "utf-8")
            stack.callback(_stop, instance)
        started = instances[: 1 if first else count]
        for instance in started:
            instance.start()
        for instance in started:
            instance.wait_until_ready()
        stack.enter_context(_running(new_nginx(directory, front, [each.address for each in instances])))
        wait_for(lambda: not is_refused(front))
        yield Fleet(f"http://127.0.0.1:{front}", instances, redis, postgres, providers, settings, directory)


@contextmanager
def _running(program: Program) -> Iterator[Program]:
    program.start()
    try:
        yield program
    finally:
        _stop(program)


def _stop(program: Program) -> None:
    if program.process is not None and program.process.poll() is None:
        program.stop(signal.SIGTERM)
