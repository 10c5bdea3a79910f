"""A company: an identity provider of other people, PostgreSQL, nginx before four instances, and Claude Code.

Each step is a situation of docs/guide/company.md. It prints its result and its seconds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2 as httpx
from sqlalchemy import create_engine, make_url, text

from tests.e2e.claude import Run, find_claude, run_claude
from tests.e2e.company import ADMIN_KEY, Machine
from tests.fleet.identity import GROUP, Canaille, IdentityProvider, OidcProvider, ProviderBrowser, ProviderRefusal
from tests.fleet.programs import Instance, reserve_ports
from tests.fleet.setup import Fleet, running_fleet
from tests.support.process_checks import reload
from tests.support.server_process import Proxy
from tests.support.sign_in import Device, read_result
from tests.support.tls import NO_AUTHORITIES
from tests.support.waiting import PAUSE_SECONDS, WAIT_SECONDS, wait_for

INSTANCES = 4
OLD_SECRET = "secret-of-sign-ins-0123456789abcdef"
NEW_SECRET = "secret-of-sign-ins-fedcba9876543210"
PROMPT = "Say exactly: still here"
MODEL = "gpt-4.1-mini"
INPUT_PRICE, OUTPUT_PRICE = Decimal("0.40"), Decimal("1.60")
"""List prices of the model in dollars per million tokens. Source: platform.openai.com/docs/pricing."""
PROVIDER_FAILURE = "/oauth/token with HTTP 500"
"""Canaille 0.3.6 gives a person no second token within one second."""
REFUSAL = "refuses to renew the sign-in"
REVOCATION_SECONDS = 2
"""Time after `keys revoke` in which all instances refuse the person: docs/guide/decision.md."""
TABLES = f"""
[providers.openai]
prices = "openai"

[sign_in.groups.{GROUP}]
team = "build"
budgets = ["100USD/month"]
"""


class Company:
    """A run for each provider with Redis, and one without it.

    `python`: interpreter of the environment with Canaille. `words`: select runs.
    """

    def __init__(self, python: str, words: Sequence[str]) -> None:
        providers: Mapping[str, Callable[[Path, int], IdentityProvider]] = {
            "oidc-provider": OidcProvider,
            "canaille": lambda folder, port: Canaille(folder, port, python),
        }
        runs = [(name, store) for name in providers for store in ("redis", "postgres")]
        self._runs = [(f"{name}, {store}", providers[name], store) for name, store in runs if {*words} <= {name, store}]
        self.problems = (
            []
            if self._runs
            else [f"no run has all of these words: {' '.join(words)}. The runs are: {'; '.join(map(' '.join, runs))}"]
        )

    def run(self) -> None:
        for name, new_provider, store in self._runs:
            with ExitStack() as stack:
                self._run(name, new_provider, store, stack)

    def _run(
        self, name: str, new_provider: Callable[[Path, int], IdentityProvider], store: str, stack: ExitStack
    ) -> None:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="company-")))
        (port,) = reserve_ports(stack, 1)
        provider = new_provider(folder, port)
        settings = {
            **provider.settings,
            "VIRTUAL_KEYS": "true",
            "DASHBOARD_URL": "http://127.0.0.1:{port}",
            "ADMIN_API_KEY": ADMIN_KEY,
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "info",
            "FALLBACK_HAIKU": "",
        }
        if store == "postgres":
            settings["REDIS_URL"] = ""
        started_at = time.monotonic()
        dotenv = f"SIGN_IN_SECRET={OLD_SECRET}\n"
        table = TABLES + provider.sign_in_table
        fleet = stack.enter_context(running_fleet(INSTANCES, settings, table=table, dotenv=dotenv))
        stack.callback(provider.program.stop)
        provider.start(f"{fleet.url}/dashboard/oidc/callback")
        _print(name, "start of all parts", started_at, "")
        run = _Steps(fleet, provider, folder)
        for title, step in run.list_all().items():
            started_at = time.monotonic()
            try:
                result = step()
            except (AssertionError, ProviderRefusal) as error:
                result = "FAILED"
                self.problems.append(f"{name}: {title}: {error}")
            _print(name, title, started_at, result)


class _Steps:
    """The steps with one provider and one store."""

    def __init__(self, fleet: Fleet, provider: IdentityProvider, folder: Path) -> None:
        self._fleet = fleet
        self._provider = provider
        self._proxy = _describe(fleet.instances[0], fleet.url)
        self._machine = Machine(find_claude(), self._proxy, folder / "home")
        options: Any = {"trust_env": False, "verify": NO_AUTHORITIES, "timeout": WAIT_SECONDS}
        self._client = httpx.Client(**options)
        self._admin = httpx.Client(base_url=fleet.url, headers={"x-api-key": ADMIN_KEY}, **options)

    def list_all(self) -> Mapping[str, Callable[[], str]]:
        """Return title → step, in the order in which they run. A step returns what it has shown."""
        return {
            "first sign-in with Claude Code, and a reply": self._sign_in_first,
            "SIGN_IN_SECRET replaced on one instance after another": self._replace_secret,
            "lasting exception of a person": self._keep_exception,
            "removed person": self._remove_person,
            "reused address": self._reuse_address,
            "price at the address of a mirror": self._pay_at_mirror,
            "key of the provider changed under the same id": self._change_key,
            "revoked person": self._revoke_person,
        }

    def _sign_in_first(self) -> str:
        """Sign in with the real client, and work."""
        self._add("ann")
        self._machine.sign_in(ProviderBrowser(self._proxy, "ann"))
        self._work()
        (sign_in,) = self._list_sign_ins("ann@example.org")
        assert sign_in["provider_refresh_token"], sign_in
        assert self._read_key("ann@example.org")["team"] == "build"
        return "refresh token of the provider, team of the group"

    def _replace_secret(self) -> str:
        """After the change of each instance, all of them accept the tokens, refresh, and sign in."""
        self._add("cem")
        before = self._sign_in("cem")
        secrets = f"{NEW_SECRET},{OLD_SECRET}"
        for instance in self._fleet.instances:
            self._reload(instance, secrets)
            self._use_everywhere(before)
            self._sign_in("cem")
            self._work()
        after = self._sign_in("cem")
        for instance in self._fleet.instances:
            self._reload(instance, NEW_SECRET)
            self._use_everywhere(after)
        ended = self._refresh(before).json().get("error")
        assert ended == "invalid_grant", ended
        self._machine.sign_in(ProviderBrowser(self._proxy, "ann"))
        self._work()
        return f"{INSTANCES} changes, nobody signed out; without the old one, who signed in after it stays"

    def _keep_exception(self) -> str:
        """An administrator raises a budget. A refresh and a reload keep it, until the exception is removed."""
        self._add("dan")
        device, name = self._sign_in("dan"), "dan@example.org"
        for options, amount in ((("--budget", "200USD/month"), 200), (("--exceptions", "none"), 100)):
            self._fleet.run_command("keys", "change", name, *options)
            self._use_everywhere(device)
            for instance in self._fleet.instances:
                reload(_describe(instance))
            (budget,) = self._read_key(name)["budgets"]
            assert budget["amount"] == amount, budget
        return "$200 after a refresh and reloads; $100 of the table after its removal"

    def _remove_person(self) -> str:
        """In each way that the provider has. After the refresh, all instances refuse the token of the device, and the
        key that the person has created.
        """
        removals = zip(("eve", "eve-b", "eve-c"), self._provider.removals.items(), strict=False)
        return "; ".join(f"{way}: {self._remove(subject, remove)}" for subject, (way, remove) in removals)

    def _remove(self, subject: str, remove: Callable[[str], None]) -> str:
        self._add(subject)
        device = self._sign_in(subject)
        self._use_everywhere(device)
        answer = device.client.post("/admin/keys", json={"name": f"laptop-{subject}"}, headers=_authorize(device))
        assert answer.status_code == 200, answer.text
        tokens = device.tokens["access_token"], answer.json()["key"]
        for token in tokens:
            self._wait_until_answered(token, 200)
        remove(subject)
        refused = self._refresh(device)
        error = refused.json()
        if refused.status_code == 503:  # the error may be about everybody, so it has to last
            (marked,) = self._list_sign_ins(f"{subject}@example.org")
            assert marked["refusal"] == error["error_description"], marked
            self._let_an_hour_pass(marked["id"])
            self._wait_until_answered(tokens[1], 401)
            refused = self._refresh(device)
        assert refused.json().get("error") == "invalid_grant", refused.text
        ended_at = time.monotonic()
        for token in tokens:
            self._wait_until_answered(token, 401)
        seconds = time.monotonic() - ended_at
        assert not self._may_sign_in(subject)
        return f"{error['error_description']} Refused by all instances {seconds:.2f} s after the end"

    def _revoke_person(self) -> str:
        """By the command of an administrator. No instance accepts what is sent later than `REVOCATION_SECONDS` after
        the time that the database has for the revocation.
        """
        self._add("gus")
        device, name = self._sign_in("gus"), "gus@example.org"
        created = device.client.post("/admin/keys", json={"name": "laptop-gus"}, headers=_authorize(device))
        given = self._admin.post("/admin/keys", json={"name": "given", "owner": name})
        assert (created.status_code, given.status_code) == (200, 200), (created.text, given.text)
        requests: list[tuple[str, str, Mapping[str, str], int]] = [
            ("device", "/v1/models", _authorize(device), 401),
            ("own key", "/v1/models", {"x-api-key": created.json()["key"]}, 401),
            ("key of an administrator", "/v1/models", {"x-api-key": given.json()["key"]}, 401),
            ("session", "/dashboard", {"cookie": self._open_dashboard("gus")}, 303),
        ]
        for _, path, headers, _ in requests:  # an instance knows a new key within two seconds
            send = partial(self._get, path=path, headers=headers)
            wait_for(lambda send=send: {*map(send, self._fleet.instances)}, lambda statuses: statuses == {200})
        with ThreadPoolExecutor(len(requests) * INSTANCES) as pool:
            watches = {
                (kind, instance.address): pool.submit(self._watch_end, instance, path, headers, status)
                for kind, path, headers, status in requests
                for instance in self._fleet.instances
            }
            self._fleet.run_command("keys", "revoke", name)
            accepted_at = {watch: last.result() for watch, last in watches.items()}
        statement = "SELECT revoked_at FROM anthropic_proxy.virtual_keys WHERE label = :name"
        (revoked_at,) = self._query(statement, name=name)
        seconds = {watch: last - revoked_at / 10**6 for watch, last in accepted_at.items()}
        late = {watch: after for watch, after in seconds.items() if after > REVOCATION_SECONDS}
        assert not late, f"accepted after `keys revoke`, by seconds: {late}"
        assert not self._may_sign_in("gus")
        return f"the last accepted request began {max(seconds.values()):.2f} s after the revocation"

    def _watch_end(self, instance: Instance, path: str, headers: Mapping[str, str], status: int) -> float:
        """Send requests until one has this status. Return the time at which the last other one began."""
        started_at = last = time.time()
        while True:
            began_at = time.time()
            if self._get(instance, path, headers) == status:
                return last
            assert began_at < started_at + WAIT_SECONDS
            last = began_at
            time.sleep(PAUSE_SECONDS)

    def _get(self, instance: Instance, path: str, headers: Mapping[str, str]) -> int:
        return self._client.get(f"http://{instance.address}{path}", headers=headers).status_code

    def _open_dashboard(self, subject: str) -> str:
        """Sign in to the dashboard. Return the header `cookie`."""
        browser = ProviderBrowser(self._proxy, subject)

        def open_page() -> httpx.Response:
            begun = browser.client.get("/dashboard/oidc/start", params={"next": "/dashboard"})
            return browser.client.get(browser.follow(begun))

        page = wait_for(open_page, lambda page: page.status_code == 200 or PROVIDER_FAILURE not in page.text)
        assert page.status_code == 200, page.text
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.client.cookies.jar)

    def _let_an_hour_pass(self, sign_in: str) -> None:
        """Change the times of the answers of the provider. A changed key lets the instances read sign-ins again."""
        earlier = ", ".join(f"{name} = {name} - 3600000000" for name in ("refused_at", "denied_at", "checked_at"))
        statement = f"UPDATE anthropic_proxy.sign_ins SET {earlier} WHERE id = :sign_in RETURNING 1"
        assert self._query(statement, sign_in=sign_in) == [1]
        self._fleet.run_command("keys", "create", f"after-{sign_in}")

    def _query(self, statement: str, **values: str) -> list[Any]:
        """Run a statement in the database of the instances, and return the first column of its rows."""
        engine = create_engine(make_url(self._fleet.postgres.url).set(drivername="postgresql+psycopg"))
        with engine.begin() as connection:
            rows = [*connection.execute(text(statement), values).scalars()]
        engine.dispose()
        return rows

    def _wait_until_answered(self, token: str, status: int) -> None:
        """Wait until all instances answer requests with the token or key with this status."""
        wait_for(lambda: self._send_everywhere(token), lambda statuses: statuses == {status})

    def _reuse_address(self) -> str:
        """A new user with the address of the removed person has another name, and reads nothing of that person."""
        assert self._count_requests("eve@example.org") > 0
        self._add("eve-2", "eve")
        device, name = self._sign_in("eve-2"), "eve@example.org (2)"
        assert self._read_key(name)["owner"] == name
        assert len(self._list_sign_ins(name)) == 1
        client = self._proxy.client(headers=_authorize(device))
        listed = client.get("/admin/keys").json()["data"]
        assert [key["name"] for key in listed] == [name], listed
        read = client.get("/api/requests").json()["requests"]
        assert read == [], read
        return f"the new user is {name}, without keys and requests of the first one"

    def _pay_at_mirror(self) -> str:
        """Both providers have an address of the company. One of them has the field `prices`."""
        self._add("fay")
        device = self._sign_in("fay")
        answer = self._ask(device, f"openai/{MODEL}")
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        cost = (usage["input_tokens"] * INPUT_PRICE + usage["output_tokens"] * OUTPUT_PRICE) / 10**6
        (row,) = wait_for(lambda: self._list_requests("fay@example.org"), lambda rows: len(rows) == 1)
        assert Decimal(str(row["cost"])) == cost, (row["cost"], cost)
        assert row["price_source"].endswith(", prices of OpenAI"), row["price_source"]
        refused = self._ask(device, f"backup/{MODEL}")
        assert (refused.status_code, refused.json()["error"]["message"]) == (
            403,
            f"The key 'fay@example.org' has a budget in dollars, and the price of backup/{MODEL} is unknown. Ask an "
            "administrator of the proxy for the price of this model.",
        )
        return f"with `prices` ${cost:.7f} from {row['price_source']}; without it 403 with the reason"

    def _change_key(self) -> str:
        """All instances have the earlier key of this id. Sign-ins with the new one succeed at once."""
        self._provider.change_key()
        started_at = time.monotonic()
        for _ in range(2 * INSTANCES):
            self._sign_in("ann")
        return f"{2 * INSTANCES} sign-ins, none refused, in {time.monotonic() - started_at:.1f} s"

    def _work(self) -> None:
        """Let Claude Code answer a prompt with its sign-in."""
        machine = self._machine
        run: Run = run_claude(
            machine.claude, self._proxy.url, machine.work, PROMPT, "--model", "haiku", home=machine.home
        )
        assert run.text.startswith("still here"), run.text + run.stderr

    def _add(self, subject: str, name: str = "") -> None:
        self._provider.add(subject, f"{name or subject}@example.org")

    def _sign_in(self, subject: str) -> Device:
        """Sign in as Claude Code does it by HTTP."""
        device = Device(self._proxy)
        page = wait_for(
            lambda: ProviderBrowser(self._proxy, subject).approve(device.begin()),
            lambda page: page.status_code == 200 or PROVIDER_FAILURE not in page.text,
        )
        assert page.status_code == 200, read_result(page)
        answer = device.poll()
        assert answer.status_code == 200, answer.text
        device.tokens = answer.json()
        return device

    def _may_sign_in(self, subject: str) -> bool:
        """False: the identity provider shows an error, or the proxy refuses the person."""
        try:
            return bool(ProviderBrowser(self._proxy, subject).approve(Device(self._proxy).begin()).status_code == 200)
        except ProviderRefusal:
            return False

    def _refresh(self, device: Device) -> httpx.Response:
        """Refresh behind nginx, and repeat it as Claude Code does while the provider fails."""
        return wait_for(device.refresh, lambda answer: answer.status_code != 503 or REFUSAL in answer.text)

    def _use_everywhere(self, device: Device) -> None:
        """Use the token at each instance, refresh it, and use the new one at each instance too."""
        statuses = self._send_everywhere(device.tokens["access_token"])
        assert statuses == {200}, statuses
        answer = self._refresh(device)
        assert answer.status_code == 200, answer.text
        device.tokens = {**device.tokens, **answer.json()}
        statuses = self._send_everywhere(device.tokens["access_token"])
        assert statuses == {200}, statuses

    def _send_everywhere(self, token: str) -> set[int]:
        """Return the statuses of all instances for a request."""
        body = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
        headers = {"authorization": f"Bearer {token}"}
        urls = [f"http://{instance.address}/v1/messages" for instance in self._fleet.instances]
        return {self._client.post(url, json=body, headers=headers).status_code for url in urls}

    def _ask(self, device: Device, model: str) -> httpx.Response:
        body = {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "Count to 40"}]}
        return device.client.post("/v1/messages", json=body, headers=_authorize(device))

    def _reload(self, instance: Instance, secrets: str) -> None:
        """Let an instance read other values of SIGN_IN_SECRET."""
        instance.log_file.with_name(".env").write_text(f"SIGN_IN_SECRET={secrets}\n", "utf-8")
        shown = reload(_describe(instance))
        assert "SIGN_IN_SECRET" in shown, shown

    def _list_sign_ins(self, name: str) -> list[dict[str, Any]]:
        listed = self._admin.get("/admin/sign-ins").json()["data"]
        return [sign_in for sign_in in listed if sign_in["name"] == name]

    def _read_key(self, name: str) -> dict[str, Any]:
        (key,) = (key for key in self._admin.get("/admin/keys").json()["data"] if key["name"] == name)
        read: dict[str, Any] = key
        return read

    def _list_requests(self, name: str) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self._admin.get("/api/requests", params={"key": name}).json()["requests"]
        return listed

    def _count_requests(self, name: str) -> int:
        return len(wait_for(lambda: self._list_requests(name)))


def _describe(instance: Instance, url: str = "") -> Proxy:
    """`url`: "": that of the instance itself."""
    assert instance.process is not None
    return Proxy(url or f"http://{instance.address}", instance.process, instance.log_file)


def _authorize(device: Device) -> dict[str, str]:
    return {"authorization": f"Bearer {device.tokens['access_token']}"}


def _print(name: str, title: str, started_at: float, result: str) -> None:
    print(f"{name:24}  {title:54} {time.monotonic() - started_at:6.1f} s  {result}".rstrip(), flush=True)
