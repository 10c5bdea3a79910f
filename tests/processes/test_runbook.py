"""The commands of the runbook, in the situations for which it has them: their output is that of the page."""

import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest
import trustme

from anthropic_proxy import __version__
from anthropic_proxy.console.keys.administration import open_administration
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.secrets import Secret
from tests.site.pages import blocks
from tests.support.debian_packages import find_program
from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.fakes.openai_chat.server import KEY, new_openai
from tests.support.fakes.server import serving
from tests.support.paths import ROOT
from tests.support.postgres import Postgres, find_programs, running_pooler, running_postgres
from tests.support.process_checks import METRICS, total
from tests.support.redis import find_redis, running_redis
from tests.support.server_process import Proxy, environment_of, hold_port, running_proxy
from tests.support.sign_in import Device, list_sign_in_settings
from tests.support.small_disk import fill_disk, mounted_disk
from tests.support.virtual_keys import create_key
from tests.support.waiting import WAIT_SECONDS, wait_for

PAGE = (ROOT / "docs/guide/runbook.md").read_text("utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
MONITOR = "monitor-0123456789abcdef"
NEEDS = {
    "curl": find_program("curl"),
    "openssl": find_program("openssl"),
    "psql": find_programs(),
    "redis": find_redis(),
}

Steps = Iterator["Desk"]
SITUATIONS: dict[str, Callable[[ExitStack, Path], Steps]] = {}


class Desk:
    """The shell of an operator in the folder of the settings files."""

    def __init__(self, folder: Path, settings: dict[str, str], proxy: Proxy | None = None) -> None:
        program = folder / "bin/anthropic-proxy"
        program.parent.mkdir(exist_ok=True)
        program.symlink_to(Path(sys.executable).with_name("anthropic-proxy"))  # messages name it without a folder
        self._folder = folder
        self._environment = {**environment_of(folder), **settings, "MONITOR_API_KEY": MONITOR, "NO_COLOR": "1"}
        self._environment["PATH"] = f"{program.parent}:{self._environment['PATH']}"
        self._shell = ["sh", "-c"]
        self.connect(proxy)

    def connect(self, proxy: Proxy | None) -> None:
        self._address = "" if proxy is None else proxy.url.partition("://")[2]
        if proxy is not None:
            self._environment |= {"PORT": proxy.url.rpartition(":")[2], "PID": str(proxy.process.pid)}

    def set(self, **variables: str) -> None:
        self._environment |= variables

    def resolve(self, host: str, *addresses: str) -> None:
        """Let a host name lead to these addresses, for the commands only."""
        hosts = self._folder / "hosts"
        hosts.write_text("".join(f"{address} {host}\n" for address in ("127.0.0.1", *addresses)))
        inside = 'mount --bind "$0" /etc/hosts && exec sh -c "$1"'
        self._shell = ["unshare", "--mount", "sh", "-c", inside, str(hosts)]
        if self.execute("echo found") != "found\n":
            pytest.skip("platform: this user cannot replace the file of host names for one command")

    def run(self, text: str) -> None:
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            while command.endswith("\\"):
                line, _, expected = expected.partition("\n")
                command += "\n" + line
            pattern = ".*".join(map(re.escape, _normalize(expected).split("…")))
            output = self._run_until(command, pattern)
            assert re.fullmatch(pattern, output), f"$ {command}\n{output}"

    def _run_until(self, command: str, pattern: str) -> str:
        """A question is asked again until the answer is that of the page: a change needs a moment."""
        if not command.startswith(("curl", "openssl s_client", "anthropic-proxy doctor")):
            return _normalize(self.execute(command))
        return wait_for(
            lambda: _normalize(self.execute(command)), lambda found: re.fullmatch(pattern, found) is not None
        )

    def execute(self, command: str) -> str:
        address = self._address or "127.0.0.1:9"
        done = subprocess.run(
            [*self._shell, command.replace("127.0.0.1:8082", address)],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        return done.stdout


def _normalize(text: str) -> str:
    """Tables have tabs if no terminal shows them."""
    return re.sub(r"[ \t]+", " ", text.strip()).replace(" \n", "\n")


def situation(name: str) -> Callable[[Callable[[ExitStack, Path], Steps]], Callable[[ExitStack, Path], Steps]]:
    def add(steps: Callable[[ExitStack, Path], Steps]) -> Callable[[ExitStack, Path], Steps]:
        SITUATIONS[name] = steps
        return steps

    return add


def test_the_page_has_a_situation_for_each_section() -> None:
    named = {name for name, text in SECTIONS.items() if any(block.language == "console" for block in blocks(text))}
    assert named == {*SITUATIONS}


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_commands_of_a_situation_have_the_output_of_the_page(name: str, tmp_path: Path) -> None:
    if missing := [program for program, found in NEEDS.items() if found is None]:
        pytest.skip(f"engine: {missing[0]}")
    with ExitStack() as stack:
        steps = SITUATIONS[name](stack, tmp_path)
        for block in blocks(SECTIONS[name]):
            if block.language == "console":
                next(steps).run(block.text)
        assert next(steps, None) is None, "a step without a block"


def file_database(folder: Path) -> dict[str, str]:
    return {"DATABASE_URL": f"sqlite:///{folder}/ledger.sqlite3"}


def write_settings(folder: Path, **variables: str) -> None:
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))


def start(stack: ExitStack, folder: Path, settings: dict[str, str], port: int = 0) -> Proxy:
    body = '{"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}'
    (folder / "hello.json").write_text(body)
    own = {"SERVE_DEMO": "true", "MONITOR_API_KEY": MONITOR, "LOG_LEVEL": "info"}
    return stack.enter_context(running_proxy(folder, own | settings, port=port))


def wait_stored(proxy: Proxy, count: int) -> None:
    client = proxy.client(headers={"x-api-key": MONITOR})
    name = "anthropic_proxy_ledger_rows_total"
    wait_for(lambda: total(client.get(METRICS), name, result="written"), lambda written: written >= count)


def new_key(settings: dict[str, str], label: str) -> str:
    with open_administration(Settings(database_url=Secret(settings["DATABASE_URL"])), "test") as administration:
        return create_key(administration, VirtualKey(id="", label=label))[1]


@contextmanager
def company(folder: Path) -> Iterator[tuple[Desk, Device, FakeProvider]]:
    """A proxy at which Ann is signed in on one device, with the settings in `.env`."""
    with ExitStack() as stack:
        provider = stack.enter_context(running_provider())
        provider.offers_refresh = True
        settings = {**list_sign_in_settings(provider), **file_database(folder)}
        write_settings(folder, **{name: settings.pop(name) for name in ("SIGN_IN_SECRET", "OIDC_ISSUER")})
        proxy = start(stack, folder, settings)
        provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
        device = Device(proxy)
        device.sign_in()
        settings["DASHBOARD_URL"] = proxy.url
        desk = Desk(folder, settings, proxy)
        desk.set(TOKEN=device.tokens["access_token"])
        yield desk, device, provider


@situation("The certificate is replaced")
def replace_certificate(stack: ExitStack, folder: Path) -> Steps:
    authority, host, second = trustme.CA(), "proxy.example.org", folder / "second"
    second.mkdir()
    for name, place in (("proxy", folder), ("new", folder), ("proxy", second)):
        issued = authority.issue_cert("127.0.0.1", "127.0.0.2", host)
        issued.private_key_pem.write_to_path(place / f"{name}-key.pem")
        (place / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    openai = stack.enter_context(serving(new_openai()))
    provider = stack.enter_context(running_provider())
    settings = {
        **list_sign_in_settings(provider),
        **file_database(folder),
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"{openai.url}/v1",
        "PREFERRED_PROVIDER": "openai",
    }
    files = [
        {"TLS_CERT_FILE": str(place / "proxy.pem"), "TLS_KEY_FILE": str(place / "proxy-key.pem")}
        for place in (folder, second)
    ]
    port = stack.enter_context(hold_port())
    settings["DASHBOARD_URL"] = f"https://{host}:{port}"
    proxy, _ = (
        stack.enter_context(
            running_proxy(place, {**settings, **own, "HOST": address}, trusted=trusted, host=address, port=port)
        )
        for place, own, address in zip((folder, second), files, ("127.0.0.1", "127.0.0.2"), strict=True)
    )
    desk = Desk(folder, {**settings, **files[0]}, proxy)
    yield desk
    yield desk
    assert (folder / "presented").read_text() == (folder / "expected").read_text()
    desk.resolve(host, "127.0.0.1", "127.0.0.2")
    yield desk


@situation("The identity provider does not answer")
def lose_identity_provider(stack: ExitStack, folder: Path) -> Steps:
    desk, device, provider = stack.enter_context(company(folder))
    provider.refresh_failure = (503, {"error": "server_error"})
    assert device.refresh().status_code == 503
    desk.set(OIDC_ISSUER="http://127.0.0.1:9")
    yield desk


@situation("Redis is lost")
def lose_redis(stack: ExitStack, folder: Path) -> Steps:
    redis = stack.enter_context(running_redis())
    desk = Desk(folder, {}, start(stack, folder, {"REDIS_URL": redis.url}))
    redis.kill()
    yield desk
    redis.start()
    yield desk


def start_with_postgres(stack: ExitStack, folder: Path) -> tuple[Desk, Postgres, Proxy]:
    """Start a proxy with a PostgreSQL server, which has stored one request."""
    programs = find_programs()
    assert programs is not None
    postgres = stack.enter_context(running_postgres(programs))
    settings = {"DATABASE_URL": postgres.url}
    proxy = start(stack, folder, settings)
    desk = Desk(folder, settings, proxy)
    desk.execute("curl -s http://127.0.0.1:8082/v1/messages -d @hello.json")
    wait_stored(proxy, 1)
    return desk, postgres, proxy


@situation("PostgreSQL is down")
def lose_postgres(stack: ExitStack, folder: Path) -> Steps:
    desk, postgres, _ = start_with_postgres(stack, folder)
    postgres.stop()
    yield desk
    postgres.start()
    yield desk


@situation("PostgreSQL fails over")
def fail_over(stack: ExitStack, folder: Path) -> Steps:
    """The database accepts no changes for a while, as if the address led to a standby."""
    desk, postgres, proxy = start_with_postgres(stack, folder)
    desk.set(URL=postgres.url, PGOPTIONS="-c default_transaction_read_only=off")
    psql = """psql "$URL" -qc "ALTER DATABASE postgres {}" -c \
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()\""""
    desk.execute(psql.format("SET default_transaction_read_only = on"))
    desk.execute("curl -s http://127.0.0.1:8082/v1/messages -d @hello.json")
    yield desk
    desk.execute(psql.format("RESET default_transaction_read_only"))
    yield desk
    wait_stored(proxy, 2)


@situation("The database is damaged or lost")
def restore_database(stack: ExitStack, folder: Path) -> Steps:
    settings = {**file_database(folder), "VIRTUAL_KEYS": "true"}
    desk = Desk(folder, settings)
    desk.set(KEY=new_key(settings, "ci"))
    with ExitStack() as first:
        proxy = start(first, folder, settings)
        desk.connect(proxy)
        desk.execute('curl -s http://127.0.0.1:8082/v1/messages -H "x-api-key: $KEY" -d @hello.json')
        wait_stored(proxy, 1)
        yield desk
    file = folder / "ledger.sqlite3"
    file.write_bytes(file.read_bytes()[:8192])
    yield desk
    desk.connect(start(stack, folder, settings))
    yield desk


@situation("A backup is restored behind a connection pooler")
def restore_behind_pooler(stack: ExitStack, folder: Path) -> Steps:
    if (program := find_program("pgbouncer")) is None:
        pytest.skip("engine: pgbouncer")
    programs = find_programs()
    assert programs is not None
    pooler = stack.enter_context(running_pooler(program, stack.enter_context(running_postgres(programs))))
    settings = {"DATABASE_URL": pooler, "VIRTUAL_KEYS": "true"}
    desk = Desk(folder, settings)
    desk.set(KEY=new_key(settings, "ci"), CONSOLE_URL=pooler.replace("/postgres", "/pgbouncer"))
    with ExitStack() as first:
        proxy = start(first, folder, settings)
        desk.connect(proxy)
        desk.execute('curl -s http://127.0.0.1:8082/v1/messages -H "x-api-key: $KEY" -d @hello.json')
        wait_stored(proxy, 1)
        desk.execute("anthropic-proxy db backup ledger-backup.dump")
    yield desk
    yield desk
    desk.connect(start(stack, folder, settings))
    yield desk


@situation("The disk is full")
def use_up_disk(stack: ExitStack, folder: Path) -> Steps:
    disk = stack.enter_context(mounted_disk(folder))
    settings = file_database(disk)
    proxy = start(stack, folder, settings)
    desk = Desk(folder, settings, proxy)
    desk.execute("curl -s http://127.0.0.1:8082/v1/messages -d @hello.json")
    wait_stored(proxy, 1)
    fill_disk(disk)
    yield desk
    yield desk


@situation("A device is stolen")
def lose_device(stack: ExitStack, folder: Path) -> Steps:
    desk, *_ = stack.enter_context(company(folder))
    desk.set(ID=desk.execute("anthropic-proxy keys sign-ins").split()[-1])
    yield desk


def with_key(stack: ExitStack, folder: Path, label: str, requests: int = 1) -> Desk:
    """A proxy with a virtual key ($KEY) that has sent some requests."""
    settings = {**file_database(folder), "VIRTUAL_KEYS": "true"}
    key = new_key(settings, label)
    proxy = start(stack, folder, settings)
    desk = Desk(folder, settings, proxy)
    desk.set(KEY=key)
    for _ in range(requests):
        desk.execute('curl -s http://127.0.0.1:8082/v1/messages -H "x-api-key: $KEY" -d @hello.json')
    wait_stored(proxy, requests)
    return desk


@situation("A virtual key has leaked")
def leak_virtual_key(stack: ExitStack, folder: Path) -> Steps:
    yield with_key(stack, folder, "ci")


@situation("A key of a provider has leaked")
def leak_provider_key(stack: ExitStack, folder: Path) -> Steps:
    openai = stack.enter_context(serving(new_openai()))
    write_settings(folder, OPENAI_API_KEY="sk-revoked-0123456789abcdef")
    settings = {"OPENAI_BASE_URL": f"{openai.url}/v1", "PREFERRED_PROVIDER": "openai"}
    proxy = start(stack, folder, settings)
    (folder / "hello.json").write_text((folder / "hello.json").read_text().replace("demo/demo", "claude-sonnet-4-5"))
    desk = Desk(folder, settings, proxy)
    desk.set(NEW=KEY)
    yield desk


@situation("A provider is down")
def lose_provider(stack: ExitStack, folder: Path) -> Steps:
    write_settings(folder, OPENAI_API_KEY=KEY)
    settings = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "PREFERRED_PROVIDER": "openai"}
    proxy = start(stack, folder, settings)
    (folder / "hello.json").write_text((folder / "hello.json").read_text().replace("demo/demo", "claude-sonnet-4-5"))
    desk = Desk(folder, settings, proxy)
    desk.set(OTHER="demo/demo")
    yield desk
    yield desk


@situation("A budget is used up")
def use_up_budget(stack: ExitStack, folder: Path) -> Steps:
    desk = with_key(stack, folder, "ci")
    desk.execute("anthropic-proxy keys change ci --budget 20tokens/day")
    yield desk


@situation("An agent runs away")
def run_away(stack: ExitStack, folder: Path) -> Steps:
    yield with_key(stack, folder, "nightly", requests=5)


@situation("An upgrade under load")
def upgrade(stack: ExitStack, folder: Path) -> Steps:
    """Two instances of an earlier version, one of which is replaced while clients use both."""
    earlier = folder / "earlier"
    shutil.copytree(ROOT / "anthropic_proxy", earlier / "anthropic_proxy", ignore=shutil.ignore_patterns("__pycache__"))
    version = earlier / "anthropic_proxy/__init__.py"
    version.write_text(version.read_text("utf-8").replace(f'"{__version__}"', '"0.0.9"'), "utf-8")
    settings = {**file_database(folder), "DRAIN_DELAY": "5"}
    other = start(stack, folder, {**settings, "PYTHONPATH": str(earlier)})
    port = stack.enter_context(hold_port())
    with ExitStack() as first:
        old = start(first, folder, {**settings, "PYTHONPATH": str(earlier)}, port=port)
        load = stack.enter_context(loading(old.url, other.url))
        desk = Desk(folder, settings, old)
        yield desk
        assert old.process.wait(WAIT_SECONDS) == 0
    desk.connect(start(stack, folder, settings, port=port))
    yield desk
    load.wait_for_more()
    assert load.failures == []


class Load:
    """Clients behind a load balancer, which sends a request only to an instance that was ready just before."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.failures: list[str] = []
        self.is_over = threading.Event()
        self._urls = urls
        self._served: Counter[str] = Counter()

    def work(self) -> None:
        body = {"model": "demo/demo", "max_tokens": 50, "stream": True}
        body["messages"] = [{"role": "user", "content": "hi"}]
        with httpx.Client(trust_env=False, timeout=WAIT_SECONDS) as client:
            while not self.is_over.is_set():
                for url in filter(lambda url: self._is_ready(client, url), self._urls):
                    try:
                        answer = client.post(f"{url}/v1/messages", json=body)
                    except httpx.TransportError as error:
                        self.failures.append(f"{url}: {error}")
                        continue
                    if answer.status_code != 200 or "message_stop" not in answer.text:
                        self.failures.append(f"{url}: {answer.status_code} {answer.text}")
                    self._served[url] += 1

    def wait_for_more(self) -> None:
        """Wait until each instance has served further requests."""
        before = dict(self._served)
        wait_for(lambda: all(self._served[url] > before.get(url, 0) for url in self._urls))

    def _is_ready(self, client: httpx.Client, url: str) -> bool:
        try:
            return client.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def loading(*urls: str) -> Iterator[Load]:
    load = Load(urls)
    threads = [threading.Thread(target=load.work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        load.wait_for_more()
        yield load
    finally:
        load.is_over.set()
        for thread in threads:
            thread.join()


@situation("SIGN_IN_SECRET is replaced")
def replace_sign_in_secret(stack: ExitStack, folder: Path) -> Steps:
    desk, device, _ = stack.enter_context(company(folder))
    yield desk
    assert device.refresh().status_code == 200


@situation("A person leaves")
def leave(stack: ExitStack, folder: Path) -> Steps:
    desk, device, provider = stack.enter_context(company(folder))
    provider.revoke_refresh_tokens()
    yield desk
    assert device.refresh().json()["error"] == "invalid_grant"
    yield desk
    yield desk


@situation("The identity provider is replaced")
def replace_identity_provider(stack: ExitStack, folder: Path) -> Steps:
    desk, device, _ = stack.enter_context(company(folder))
    new = stack.enter_context(running_provider())
    new.offers_refresh = True
    new.redirect_uri = f"{device.proxy.url}/dashboard/oidc/callback"
    desk.set(NEW_ISSUER=new.issuer)
    yield desk
    wait_for(lambda: device.refresh().json().get("error"), lambda error: error == "invalid_grant")
    again = Device(device.proxy)
    again.sign_in()
    assert again.send().status_code == 200
    yield desk
