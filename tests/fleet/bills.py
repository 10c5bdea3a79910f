"""Bills of a company: sums by team, cost center, person, kind, model and day, budgets of a week and of the company, and
reports about budgets, over several instances.

The providers' bills are computed by `tests.fleet.billing`, which imports nothing of the product.
"""

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any, NamedTuple

import httpx2 as httpx
from sqlalchemy import create_engine, make_url, text

from tests.fleet import billing
from tests.fleet.billing import HAIKU, MINI, OPUS, SONNET, BillingProvider, Charge, Counts, name_model
from tests.fleet.clients import send_once
from tests.fleet.setup import Fleet, running_fleet
from tests.support.fakes.server import Exchange, serving
from tests.support.waiting import WAIT_SECONDS, wait_for
from tests.support.webhook import Webhook, running_webhook

INSTANCES = 4
TEAMS = 5
PEOPLE = 50
CENTERS = 7
"""Cost centers."""
MOVED = 5
"""People who change their team and their cost center in the middle."""
LIMITED = 5
"""People with a budget in dollars, the last ones."""
BUDGET_DOLLARS = Decimal("0.80")
CLIENTS = 16
BURST = 20
"""Number of successive requests of one person with a budget. Each tenth request is of such a burst."""
KINDS = ("main", "main", "subagent", "compaction", "auxiliary")
SOFT_BUDGET = 2_000
"""Tokens of the soft budget of each team, which all of them exceed."""
COMPANY_BUDGET = "90000USD/week"
TEAM_BUDGET = "9000USD/week"
"""Budgets that nobody reaches: their used amounts are compared."""
GROUPS = ("team", "cost-center", "owner", "kind", "model", "day")
CHECK_KIND = "auto_mode_check"
ADMIN = "admin-key-of-the-fleet-1"
_FAILURES = (503, 302)
"""Statuses of the first answers of the webhook."""
_NANO = 10**9
_SCHEMA = "anthropic_proxy"
"""Schema of the database with the tables of the ledger."""

ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": OPUS, "max_uses": 2, "max_tokens": 800}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
BASH = {"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}
SAFEGUARDS = [{"type": "dangerous_tool_use", "classifier_context": {"v": 1, "live_cwd": "/home/ada/shop"}}]
COMPACTION = {"edits": [{"type": "compact_20260112"}]}


class Case(NamedTuple):
    """A kind of request. Its name is that of the case in `tests.fleet.billing`."""

    share: int
    fields: Mapping[str, Any] = {}
    model: str = ""
    """"": any."""
    is_streamed: bool = False
    statuses: tuple[int, ...] = (200,)


CASES: Mapping[str, Case] = {
    "plain": Case(30),
    "translated": Case(12, model=f"openai/{MINI}"),
    "advised": Case(8, {"tools": [ADVISOR]}),
    "fallback": Case(7, {"fallbacks": [{"model": OPUS}]}),
    "compacted": Case(5, {"context_management": COMPACTION}),
    "searched": Case(6, {"tools": [SEARCH]}),
    "checked": Case(8, {"tools": [BASH], "safeguards": SAFEGUARDS}),
    "fast": Case(5, {"speed": "fast"}, SONNET),
    "in a region": Case(5, {"inference_geo": "us"}),
    "mixed": Case(4, {"tools": [ADVISOR, SEARCH], "speed": "fast", "inference_geo": "us"}, SONNET),
    "later kind": Case(2),
    "overloaded": Case(2),
    "failed after usage": Case(2, is_streamed=True),
    "cut": Case(2, is_streamed=True),
    "no end": Case(1, is_streamed=True),
    "left": Case(2, is_streamed=True),
    "invalid": Case(1, statuses=(400,)),
}


class Sums(NamedTuple):
    """Sums of a group."""

    requests: int = 0
    nano_dollars: int = 0
    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0

    def add(self, other: "Sums") -> "Sums":
        return Sums(*map(sum, zip(self, other, strict=True)))


class Sent(NamedTuple):
    """A request, and what it must count for."""

    session: str
    groups: Mapping[str, str]


class Span(NamedTuple):
    """Monotonic seconds at which a client began a request and had its reply."""

    started_at: float
    ended_at: float


class Bills:
    """One run with a number of requests. `has_redis`: False: the instances count budgets in PostgreSQL."""

    def __init__(self, requests: int, seed: int, *, has_redis: bool) -> None:
        self._requests = requests
        self._has_redis = has_redis
        self._random = Random(seed)
        self._provider = BillingProvider(seed)
        self._keys: dict[str, str] = {}
        self._teams: dict[str, str] = {}
        self._centers: dict[str, str] = {}
        self._sent: list[Sent] = []
        self._statuses = Counter[tuple[str, int]]()
        self._checked = set[str]()
        """Sessions with a check. The budget may have refused it."""
        self._spans: dict[str, Span] = {}
        self._shares: dict[str, Decimal] = {}
        """Team or person → used percentage of the budget."""
        self.problems: list[str] = []

    def run(self) -> None:
        """Send requests of all people, half of them before some people change their teams, and compare all sums."""
        own = {
            "VIRTUAL_KEYS": "true",
            "ADMIN_API_KEY": ADMIN,
            "BUDGET": COMPANY_BUDGET,
            "ANTHROPIC_API_KEY": billing.KEY,
            "MODEL_HAIKU": f"anthropic/{HAIKU}",
            "MODEL_SONNET": f"anthropic/{SONNET}",
            "FALLBACK_HAIKU": f"anthropic/{SONNET}",
            "FALLBACK_SONNET": f"anthropic/{HAIKU}",
        }
        if not self._has_redis:
            own["REDIS_URL"] = ""
        with running_webhook(*_FAILURES) as webhook, serving(self._provider.build_application()) as running:
            own["ANTHROPIC_UPSTREAM_URL"] = running.url
            table = f'[auto_mode]\nmodel = "anthropic/{HAIKU}"\n[alerts]\nurl = "{webhook.url}"\n'
            table += billing.write_price_tables()
            with running_fleet(INSTANCES, own, table=table) as fleet:
                self._run(fleet, webhook)

    def _run(self, fleet: Fleet, webhook: Webhook) -> None:
        for number in range(PEOPLE):
            budget = {"amount": float(BUDGET_DOLLARS), "unit": "usd", "period": "week"}
            budgets = [budget] if number >= PEOPLE - LIMITED else []
            self._create(fleet, number, budgets)
        for number in range(TEAMS):
            budget_texts = f"{SOFT_BUDGET}tokens/total soft,{TEAM_BUDGET}"
            fleet.run_command("keys", "team", f"team-{number}", "--budget", budget_texts)
        self._wait_until_known(fleet)
        half = self._requests // 2
        asyncio.run(self._send_all(fleet, half))
        for number in range(MOVED):
            person = f"person-{number:02}@example.com"
            self._teams[person] = f"team-{(number + 1) % TEAMS}"
            self._centers[person] = f"center-{(number + 2) % CENTERS}"
            moved = ("--team", self._teams[person], "--cost-center", self._centers[person])
            fleet.run_command("keys", "change", person, *moved)
        self._wait_until_known(fleet)
        asyncio.run(self._send_all(fleet, self._requests - half))
        self._compare(fleet)
        self._compare_reports(fleet, webhook)

    def _create(self, fleet: Fleet, number: int, budgets: Sequence[Mapping[str, Any]]) -> None:
        person = f"person-{number:02}@example.com"
        team = self._teams[person] = f"team-{number % TEAMS}"
        center = self._centers[person] = f"center-{number % CENTERS}"
        body = {"name": person, "owner": person, "team": team, "cost_center": center, "budgets": budgets}
        url = f"{fleet.url}/admin/keys"
        self._keys[person] = send_once("POST", url, json=body, headers={"x-api-key": ADMIN}).json()["key"]

    def _wait_until_known(self, fleet: Fleet) -> None:
        """Wait until each instance has read the last change: a key that was created after all others."""
        key = fleet.run_command("keys", "create", f"last-{self._random.random()}")
        for instance in fleet.instances:
            url = f"http://{instance.address}/v1/models"
            wait_for(
                lambda url=url: send_once("GET", url, headers={"x-api-key": key}),
                lambda reply: reply.status_code == 200,
            )

    async def _send_all(self, fleet: Fleet, count: int) -> None:
        numbers = iter(range(count))
        limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)

        async def work(client: httpx.AsyncClient) -> None:
            for number in numbers:
                await self._send(client, number)

        async with httpx.AsyncClient(
            base_url=fleet.url, timeout=WAIT_SECONDS, trust_env=False, limits=limits
        ) as client:
            await asyncio.gather(*(work(client) for _ in range(CLIENTS)))

    async def _send(self, client: httpx.AsyncClient, number: int) -> None:
        choose, session = self._random.choice, f"job-{len(self._sent):06d}"
        person, kind = self._choose_person(number), choose(KINDS)
        name = self._random.choices([*CASES], [case.share for case in CASES.values()])[0]
        case = CASES[name]
        model, is_streamed = case.model or choose((HAIKU, SONNET)), case.is_streamed or self._random.random() < 0.7
        day = datetime.now(UTC).astimezone().date().isoformat()
        groups = {"team": self._teams[person], "cost-center": self._centers[person], "owner": person}
        self._sent.append(Sent(session, {**groups, "kind": kind, "day": day}))
        body = {
            "model": model,
            "max_tokens": 1_000,
            "stream": is_streamed,
            "messages": [
                {"role": "user", "content": f"This is {session}. Case: {name}. Count to {choose((5, 20, 60))}"}
            ],
            **case.fields,
        }
        headers = {
            "x-api-key": self._keys[person],
            "x-claude-code-session-id": session,
            "x-claude-code-request-class": kind,
        }
        started_at = time.monotonic()
        async with client.stream("POST", "/v1/messages", json=body, headers=headers) as response:
            received = b""
            async for chunk in response.aiter_bytes():
                received += chunk
                if name == "left" and b"content_block_start" in received:
                    break
        self._spans[session] = Span(started_at, time.monotonic())
        self._statuses[name, response.status_code] += 1
        if name == "checked" and response.status_code == 200:
            self._checked.add(session)
        is_refused = response.status_code == 429 and self._is_limited(person)
        if not is_refused and response.status_code not in case.statuses:
            self.problems.append(f"{session}: {name}: status {response.status_code}: {received[:300]!r}")

    def _choose_person(self, number: int) -> str:
        people = [*self._keys]
        burst = number // BURST
        if burst % 10 == 9:
            return people[PEOPLE - 1 - burst // 10 % LIMITED]
        return self._random.choice(people)

    def _is_limited(self, person: str) -> bool:
        return person in [*self._keys][-LIMITED:]

    def _compare(self, fleet: Fleet) -> None:
        checks = self._checked
        wait_for(
            lambda: read_json(fleet, "/api/usage")["total"]["requests"],
            lambda stored: stored == len(self._sent) + len(checks),
        )
        journals = [one.journal.exchanges for one in fleet.providers]
        # a provider notes the end of its reply after the client may have it
        wait_for(lambda: all(exchange.outcome != "open" for journal in journals for exchange in journal))
        charges = [*self._provider.charges, *read_openai_charges(journals)]
        total = sum((charge.nano_dollars for charge in charges), 0)
        self._print_bill(charges)
        for by in GROUPS:
            expected = self._add_up(charges, checks, lambda groups, by=by: (groups[by],))
            self._compare_sums(f"by {by}, command", expected, read_command(fleet, by))
            self._compare_sums(f"by {by}, API", expected, read_api(fleet, by=by))
        for first, second in (
            ("owner", "kind"),
            ("owner", "model"),
            ("team", "model"),
            ("kind", "model"),
            ("cost-center", "owner"),
            ("cost-center", "model"),
        ):
            expected = self._add_up(charges, checks, lambda groups, a=first, b=second: (groups[a], groups[b]))
            self._compare_sums(
                f"by {first} and {second}, command", expected, read_command(fleet, first, "--split", second)
            )
            self._compare_sums(f"by {first} and {second}, API", expected, read_api(fleet, by=first, split=second))
        for number in range(TEAMS):
            team = f"team-{number}"
            of_team = [charge for charge in charges if self._groups[charge.session]["team"] == team]
            sums = self._add_up(of_team, checks, lambda groups: (groups["owner"], groups["kind"]), only=team)
            found = read_command(fleet, "owner", "--split", "kind", "--only", f"team={team}")
            self._compare_sums(f"by owner and kind of {team}, command", sums, found)
            self._compare_sums(
                f"by owner and kind of {team}, API", sums, read_api(fleet, by="owner", split="kind", team=team)
            )
        self._compare_database(fleet, charges, total)
        self._compare_budgets(fleet, charges)
        self._compare_week(fleet, charges, total)

    @property
    def _groups(self) -> Mapping[str, Mapping[str, str]]:
        return {one.session: one.groups for one in self._sent}

    def _print_bill(self, charges: Sequence[Charge]) -> None:
        kinds, calls = Counter[str](), Counter[str]()
        searches = written = written_1h = 0
        for charge in charges:
            kind = "check" if charge.is_check else charge.kind
            kinds[kind] += charge.nano_dollars
            calls[kind] += 1
            searches += charge.searches
            written += charge.counts.written
            written_1h += charge.counts.written_1h
        total = Decimal(sum(kinds.values())) / _NANO
        store = "Redis" if self._has_redis else "PostgreSQL only"
        print(f"{len(self._sent):,} requests of {PEOPLE} people over {INSTANCES} instances with {store}")
        print(f"  the bill is ${total}, with {searches:,} web searches")
        print(f"  tokens written to caches: {written:,} for 5 minutes, {written_1h:,} for an hour")
        print("  " + ", ".join(f"{kind}: {calls[kind]:,}, ${Decimal(kinds[kind]) / _NANO}" for kind in sorted(kinds)))
        print("  " + ", ".join(f"{name} {status}: {count}" for (name, status), count in sorted(self._statuses.items())))
        print(f"  failures of the provider: {dict(self._provider.failures)}", flush=True)

    def _add_up(
        self,
        charges: Iterable[Charge],
        checks: Iterable[str],
        find: Callable[[Mapping[str, str]], tuple[str, ...]],
        only: str = "",
    ) -> Mapping[tuple[str, ...], Sums]:
        """Return the sums of each group. The requests are not counted of groups by model: one has several.

        `only`: team.
        """
        found: dict[tuple[str, ...], Sums] = defaultdict(Sums)
        groups = self._groups
        for charge in charges:
            own = {**groups[charge.session], "model": name_model(charge.model)}
            if charge.is_check:
                own["kind"] = CHECK_KIND
            counts = charge.counts
            added = Sums(
                0,
                charge.nano_dollars,
                counts.input,
                counts.cache_read,
                counts.written + counts.written_1h,
                counts.output,
            )
            found[find(own)] = found[find(own)].add(added)
        requests = [one.groups for one in self._sent]
        requests += [{**groups[session], "kind": CHECK_KIND} for session in checks]
        for one in requests:
            if not only or one["team"] == only:
                name = find({**one, "model": ""})
                if "" not in name:
                    found[name] = found[name].add(Sums(1))
        return found

    def _compare_sums(self, title: str, expected: Mapping[Any, Sums], found: Mapping[Any, Sums]) -> None:
        """A group of the ledger without tokens may have requests that failed before their usage."""
        by_model = "model" in title
        cleared = {name: sums._replace(requests=0) if by_model else sums for name, sums in found.items()}
        left = {name: sums for name, sums in cleared.items() if any(sums)}
        problems = [
            f"{title} {name}: billed {expected.get(name)}, stored {left.get(name)}"
            for name in sorted({*expected, *left})
            if expected.get(name) != left.get(name)
        ]
        amount = Decimal(sum(one.nano_dollars for one in left.values())) / _NANO
        print(f"  {title}: {len(left)} groups, ${amount}{'' if not problems else '  ✕'}", flush=True)
        self.problems += problems

    def _compare_database(self, fleet: Fleet, charges: Sequence[Charge], total: int) -> None:
        engine = create_engine(make_url(fleet.postgres.url).set(drivername="postgresql+psycopg"))
        with engine.connect() as connection:
            columns = "session, kind, cost, price_source, model, model_usage"
            rows = connection.execute(text(f"SELECT {columns} FROM {_SCHEMA}.requests")).all()
            (hourly,) = connection.execute(text(f"SELECT sum(cost) FROM {_SCHEMA}.hourly")).one()
        engine.dispose()
        stored = defaultdict[tuple[str, bool], int](int)
        stored_calls = defaultdict[tuple[str, str], int](int)
        for session, kind, cost, source, model, parts in rows:
            if cost is None:
                self.problems.append(f"{session}: unknown cost: {source}")
            stored[session, kind == CHECK_KIND] += cost or 0
            for part in json.loads(parts or "[]") or [{"model": model, "cost": cost}]:
                stored_calls[part["model"], part.get("kind", "")] += part["cost"] or 0
        expected = defaultdict[tuple[str, bool], int](int)
        expected_calls = defaultdict[tuple[str, str], int](int)
        for charge in charges:
            expected[charge.session, charge.is_check] += charge.nano_dollars
            is_own = charge.kind in ("message", "search")
            expected_calls[charge.model, "" if is_own else charge.kind] += charge.nano_dollars
        self._compare_amounts("database, by request", expected, stored)
        self._compare_amounts("database, by model and kind of call", expected_calls, stored_calls)
        print(f"  database, sums by hour, ${Decimal(hourly) / _NANO}", flush=True)
        if hourly != total:
            self.problems.append(f"database: billed {total}, sums by hour {hourly}")

    def _compare_amounts(self, title: str, expected: Mapping[Any, int], found: Mapping[Any, int]) -> None:
        left = {name: amount for name, amount in found.items() if amount}
        print(f"  {title}: {len(left)} groups, ${Decimal(sum(left.values())) / _NANO}", flush=True)
        for name in sorted({*expected, *left}):
            if expected.get(name, 0) != left.get(name, 0):
                self.problems.append(f"{title} {name}: billed {expected.get(name)}, stored {left.get(name)}")

    def _compare_budgets(self, fleet: Fleet, charges: Sequence[Charge]) -> None:
        """Compare what people with a budget have used with their bill, and with what ran when it was reached."""
        budget = int(BUDGET_DOLLARS * _NANO)
        people = {person: list[Charge]() for person in [*self._keys][-LIMITED:]}
        for charge in charges:
            if (own := people.get(self._groups[charge.session]["owner"])) is not None:
                own.append(charge)
        ids = {key["name"]: key["id"] for key in read_json(fleet, "/admin/keys")["data"]}
        for person, own in people.items():
            spent, running, late = self._measure(own, budget)
            used = read_json(fleet, f"/admin/keys/{ids[person]}")["spending"][0]["used"] * _NANO
            self._shares[person] = used * 100 / budget
            print(
                f"  {person}: ${Decimal(spent) / _NANO} of ${BUDGET_DOLLARS}; "
                f"${Decimal(running) / _NANO} of requests that ran when it was reached",
                flush=True,
            )
            if used != spent:
                self.problems.append(f"{person}: billed {spent}, the budget has {used}")
            if late or spent > budget + running:
                self.problems.append(f"{person}: {spent} of {budget}; {running} ran, {late} began later")

    def _compare_week(self, fleet: Fleet, charges: Sequence[Charge], total: int) -> None:
        """Compare the budgets of the week of the company and of each team with their bills."""
        (company,) = read_json(fleet, "/api/budget")["budgets"]
        used = {"company": company["used"] * _NANO}
        for team in read_json(fleet, "/admin/teams")["data"]:
            (week,) = [one for one in team["spending"] if one["period"] == "week"]
            used[team["name"]] = week["used"] * _NANO
        expected = defaultdict[str, int](int, {"company": total})
        for charge in charges:
            expected[self._groups[charge.session]["team"]] += charge.nano_dollars
        self._compare_amounts("budgets of the week", expected, used)

    def _measure(self, charges: Sequence[Charge], budget: int) -> tuple[int, int, int]:
        """Return the nano-dollars of a person, and of them those of the requests that ran when the budget was reached,
        and of those that began later. A request runs until the client has its reply.
        """
        amounts = defaultdict[str, int](int)
        for charge in charges:
            amounts[charge.session] += charge.nano_dollars
        spans = self._spans
        spent = 0
        reached_at = float("inf")
        for session in sorted(amounts, key=lambda session: spans[session].ended_at):
            spent += amounts[session]
            if spent >= budget:
                reached_at = min(reached_at, spans[session].ended_at)
        running = sum(
            amount
            for session, amount in amounts.items()
            if spans[session].started_at <= reached_at <= spans[session].ended_at
        )
        late = sum(amount for session, amount in amounts.items() if spans[session].started_at > reached_at)
        return spent, running, late

    def _compare_reports(self, fleet: Fleet, webhook: Webhook) -> None:
        for team in read_json(fleet, "/admin/teams")["data"]:
            (soft,) = [one for one in team["spending"] if one["soft"]]
            self._shares[team["name"]] = Decimal(soft["used"] * 100) / SOFT_BUDGET
        expected = sorted((name, one) for name, share in self._shares.items() for one in (80, 100) if share >= one)
        wait_for(lambda: len(webhook.accepted), lambda number: number >= len(expected))
        accepted = webhook.accepted
        print(f"  {len(accepted)} reports about budgets, and {len(_FAILURES)} that the webhook refused", flush=True)
        if (found := sorted((one["name"], one["threshold"]) for one in accepted)) != expected:
            self.problems.append(f"reports: {found}")
        # another instance may send a report before the one that has stored it writes its line
        logged = wait_for(
            lambda: sum(one.log_file.read_text("utf-8").count("of its budget: ") for one in fleet.instances),
            lambda count: count >= len(expected),
        )
        if logged != len(expected):
            self.problems.append(f"{logged} lines in the logs about reports")


def read_openai_charges(journals: Iterable[Sequence[Exchange]]) -> list[Charge]:
    charges = []
    for exchange in (exchange for journal in journals for exchange in journal):
        if exchange.outcome == "answered" and (usage := exchange.usage) is not None:
            found = billing.OF_SESSION.search(str(exchange.body))
            assert found is not None, exchange.body
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            counts = Counts(usage["prompt_tokens"] - cached, cached, output=usage["completion_tokens"])
            charges.append(Charge(found[1], False, "message", MINI, counts))
    return charges


def read_json(fleet: Fleet, path: str, **parameters: str) -> Any:
    response = send_once("GET", f"{fleet.url}{path}", params=parameters, headers={"x-api-key": ADMIN})
    return json.loads(response.text, parse_float=Decimal)


def read_command(fleet: Fleet, by: str, *options: str) -> Mapping[tuple[str, ...], Sums]:
    return read_groups(json.loads(fleet.run_command("usage", "--by", by, *options, "--json"), parse_float=Decimal))


def read_api(fleet: Fleet, **parameters: str) -> Mapping[tuple[str, ...], Sums]:
    return read_groups(read_json(fleet, "/api/usage", **parameters))


def read_groups(usage: Mapping[str, Any]) -> Mapping[tuple[str, ...], Sums]:
    return {
        (row["name"], *([row["part"]] if "part" in row else [])): Sums(
            row["requests"],
            -1 if row["cost"] is None else int(row["cost"] * _NANO),
            row["input_tokens"],
            row["cache_read_tokens"],
            row["cache_write_tokens"],
            row["output_tokens"],
        )
        for row in usage["groups"]
    }
