"""People who are signed in at an earlier version, in which their address identified them, and then at this one.

The earlier version itself writes the database: SQLite and PostgreSQL. Both versions have one address, as behind a load
balancer. Then each device, session and key is used again, and everybody signs in once more.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2 as httpx

from bench.pair import checked_out, find_python
from tests.fleet.programs import THIS_VERSION, Instance, Version, reserve_ports
from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.paths import ROOT
from tests.support.postgres import find_programs, running_postgres
from tests.support.redis import running_redis
from tests.support.server_process import Proxy
from tests.support.sign_in import Browser, Device, list_sign_in_settings, read_form, sign_in_to_dashboard

ADMIN_KEY = "admin-key-of-the-upgrade-0123456789"
_BINDING = "anthropic_proxy/console/ledger/bind_people.py"
EXPECTED = {
    "ann, access token": "200",
    "ann, refresh": "200",
    "ann, second device, refresh": "200",
    "ann, own key": "200",
    "ann, session of the dashboard": "sign in",
    "ann, next sign-in": "ann@example.com",
    "ben, without a refresh token, access token": "200",
    "ben, without a refresh token, refresh": "200",
    "cem, access token": "200",
    "cem, refresh": "200",
    "cem, next sign-in": "cem@example.com",
    "second cem, access token": "401",
    "second cem, refresh": "sign in",
    "second cem, next sign-in": "cem@example.com (2)",
    "dan, refresh with the former address": "200",
    "dan, refresh with the new address": "200",
    "dan, next sign-in": "dan.new@example.com",
    "eve of the dashboard, own key": "200",
    "eve of the dashboard, next sign-in": "eve@example.com",
    "fay, revoked, access token": "401",
    "fay, revoked, refresh": "sign in",
    "fay, revoked, next sign-in": "refused",
    "new user with ann's address, next sign-in": "ann@example.com (2)",
}
"""What is used after the upgrade → its result."""


class Signed(NamedTuple):
    """What people had before the upgrade."""

    devices: Mapping[str, Device]
    sessions: Mapping[str, httpx.Client]
    keys: Mapping[str, str]


class People:
    """One run. `revision`: commit of the earlier version; "": the newest one in which an address was a person."""

    def __init__(self, revision: str) -> None:
        self._revision = revision or f"{_git('log', '-1', '--diff-filter=A', '--format=%H', '--', _BINDING)}^"
        self.problems: list[str] = []

    def run(self) -> None:
        print(f"from {_git('log', '-1', '--format=%h %s', self._revision)}", flush=True)
        programs = find_programs()
        assert programs is not None
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="people-")))
            checkout = stack.enter_context(checked_out(self._revision, folder))
            version = Version(checkout, find_python(checkout))
            postgres = stack.enter_context(running_postgres(programs))
            for name, url in (("sqlite", f"sqlite:///{folder}/ledger.sqlite3"), ("postgresql", postgres.url)):
                (folder / name).mkdir()
                self._upgrade(name, url, folder / name, version)

    def _upgrade(self, name: str, url: str, folder: Path, version: Version) -> None:
        with running_provider() as provider, ExitStack() as stack:
            provider.offers_refresh, provider.requires_consent = True, False
            (port,) = reserve_ports(stack, 1)
            settings = {
                **list_sign_in_settings(provider),
                "DASHBOARD_URL": f"http://127.0.0.1:{port}",
                "DATABASE_URL": url,
                "REDIS_URL": stack.enter_context(running_redis()).url,
                "ADMIN_API_KEY": ADMIN_KEY,
                "SERVE_DEMO": "true",
                "KEYS_PER_PERSON": "3",
            }
            with _running(0, port, folder, settings, version) as proxy:
                provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
                signed = _sign_in_all(proxy, provider)
            with _running(1, port, folder, settings, THIS_VERSION) as proxy:
                results = _use_all(proxy, provider, signed)
            self.problems += [f"{name}: {problem}" for problem in provider.problems]
        for what, result in results.items():
            print(f"{name:10}  {what:44} {result}", flush=True)
        wrong = {what for what in {**EXPECTED, **results} if EXPECTED.get(what) != results.get(what)}
        self.problems += [f"{name}: {what}: {results.get(what)}, not {EXPECTED.get(what)}" for what in sorted(wrong)]


@contextmanager
def _running(number: int, port: int, folder: Path, settings: Mapping[str, str], version: Version) -> Iterator[Proxy]:
    instance = Instance(number, port, folder, settings, version)
    instance.start()
    try:
        instance.wait_until_ready()
        assert instance.process is not None
        yield Proxy(f"http://{instance.address}", instance.process, instance.log_file)
    finally:
        instance.stop()


def _sign_in_all(proxy: Proxy, provider: FakeProvider) -> Signed:
    admin = proxy.client(headers={"x-api-key": ADMIN_KEY})

    def sign_in(subject: str, address: str = "") -> Device:
        device = Device(proxy)
        assert _sign_in(device, provider, subject, address) == ""
        return device

    ann = sign_in("ann")
    devices = {"ann": ann, "ann, second device": sign_in("ann")}
    provider.requires_consent = True  # for which earlier versions did not ask
    devices["ben, without a refresh token"] = sign_in("ben")
    provider.requires_consent = False
    devices |= {"cem": sign_in("cem"), "second cem": sign_in("cem-2", "cem"), "dan": sign_in("dan")}
    devices |= {"dan, new address": sign_in("dan", "dan.new"), "fay, revoked": sign_in("fay")}
    sessions = {name: _open_dashboard(proxy, provider, name) for name in ("ann", "eve")}
    headers = {"authorization": f"Bearer {ann.tokens['access_token']}"}
    keys = {"ann": proxy.client(headers=headers).post("/admin/keys", json={"name": "laptop"}).json()["key"]}
    given = admin.post("/admin/keys", json={"name": "tablet", "owner": "eve@example.com"})
    keys["eve of the dashboard"] = given.json()["key"]
    assert admin.post("/admin/keys/fay@example.com/revoke").status_code == 200
    return Signed(devices, sessions, keys)


def _use_all(proxy: Proxy, provider: FakeProvider, signed: Signed) -> Mapping[str, str]:
    results: dict[str, str] = {}

    def use(name: str, device: Device, words: str = "refresh", *, with_token: bool = True) -> None:
        if with_token:
            results[f"{name}, access token"] = str(device.send().status_code)
        answer = device.refresh()
        results[f"{name}, {words}"] = "sign in" if answer.json().get("error") == "invalid_grant" else "200"
        if answer.status_code == 200:
            assert device.send(answer.json()["access_token"]).status_code == 200

    for name, key in signed.keys.items():
        results[f"{name}, own key"] = str(signed.devices["ann"].send(key).status_code)
    users = {"ann": "ann", "ben, without a refresh token": "ben", "cem": "cem", "fay, revoked": "fay"}
    for name, subject in users.items():
        _be(provider, subject)
        use(name, signed.devices[name])
    _be(provider, "ann")
    use("ann, second device", signed.devices["ann, second device"], with_token=False)
    _be(provider, "cem-2", "cem")
    use("second cem", signed.devices["second cem"])
    _be(provider, "dan", "dan.new")
    use("dan", signed.devices["dan"], "refresh with the former address", with_token=False)
    use("dan", signed.devices["dan, new address"], "refresh with the new address", with_token=False)
    shown = signed.sessions["ann"].get("/dashboard", follow_redirects=False)
    results["ann, session of the dashboard"] = "sign in" if shown.status_code == 303 else str(shown.status_code)
    _open_dashboard(proxy, provider, "eve")
    again = {
        "ann": ("ann", ""),
        "cem": ("cem", ""),
        "second cem": ("cem-2", "cem"),
        "dan": ("dan", "dan.new"),
        "eve of the dashboard": ("eve", ""),
        "fay, revoked": ("fay", ""),
        "new user with ann's address": ("other", "ann"),
    }
    for name, (subject, address) in again.items():
        device = Device(proxy)
        problem = _sign_in(device, provider, subject, address)
        results[f"{name}, next sign-in"] = problem or _find_name(proxy, device)
    return results


def _sign_in(device: Device, provider: FakeProvider, subject: str, address: str = "") -> str:
    """Return "refused", or "" after a sign-in. An earlier version asks for no approval after the identity provider."""
    _be(provider, subject, address)
    browser = Browser(device.proxy)
    page = browser.return_from_provider(device.begin())
    if "token" in read_form(page):
        browser.decide(page)
    answer = device.poll()
    device.tokens = answer.json()
    return "" if answer.status_code == 200 else "refused"


def _find_name(proxy: Proxy, device: Device) -> str:
    headers = {"authorization": f"Bearer {device.tokens['access_token']}"}
    (found,) = proxy.client(headers=headers).get("/admin/sign-ins").json()["data"][:1]
    name: str = found["name"]
    return name


def _open_dashboard(proxy: Proxy, provider: FakeProvider, subject: str) -> httpx.Client:
    _be(provider, subject)
    return sign_in_to_dashboard(proxy)


def _be(provider: FakeProvider, subject: str, address: str = "") -> None:
    email = f"{address or subject}@example.com"
    provider.user = {"sub": subject, "email": email, "email_verified": True}


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()
