"""Bills of a company: sums by team, person, kind, model and day, and reports about budgets, over several instances."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from random import Random
from typing import Any, NamedTuple

import httpx2 as httpx

from tests.fleet.accounts import Tokens, read_journals
from tests.fleet.setup import Fleet, running_fleet
from tests.support.waiting import wait_for
from tests.support.webhook import Webhook, running_webhook

INSTANCES = 4
TEAMS = 5
PEOPLE = 50
MOVED = 5
"""People who change their team in the middle."""
CLIENTS = 16
KINDS = ("main", "main", "subagent", "compaction", "auxiliary")
MODELS = {"claude-haiku-4-5": "openai/gpt-4.1-mini", "claude-sonnet-5": "openai/gpt-4.1"}
SOFT_BUDGET = 2_000
"""Tokens of the soft budget of each team, which all of them exceed."""
GROUPS = ("team", "owner", "kind", "model", "day")
ADMIN = "admin-key-of-the-fleet-1"
_FAILURES = (503, 302)
"""Statuses of the first answers of the webhook."""


class Sent(NamedTuple):
    """A request, and what it must count for."""

    session: str
    groups: Mapping[str, str]


class Bills:
    """One run with a number of requests."""

    def __init__(self, requests: int, seed: int) -> None:
        self._requests = requests
        self._random = Random(seed)
        self._keys: dict[str, str] = {}
        self._teams: dict[str, str] = {}
        self._sent: list[Sent] = []
        self.problems: list[str] = []

    def run(self) -> None:
        """Send requests of all people, half of them before some people change their teams, and compare all sums."""
        own = {"VIRTUAL_KEYS": "true", "ADMIN_API_KEY": ADMIN, "MODEL_SONNET": "openai/gpt-4.1"}
        with (
            running_webhook(*_FAILURES) as webhook,
            running_fleet(INSTANCES, own, table=f'[alerts]\nurl = "{webhook.url}"\n') as fleet,
        ):
            for number in range(PEOPLE):
                self._create(fleet, f"person-{number:02}@example.com", f"team-{number % TEAMS}")
            for number in range(TEAMS):
                fleet.run_command("keys", "team", f"team-{number}", "--budget", f"{SOFT_BUDGET}tokens/total soft")
            self._wait_until_known(fleet)
            half = self._requests // 2
            asyncio.run(self._send_all(fleet, half))
            for number in range(MOVED):
                person = f"person-{number:02}@example.com"
                self._teams[person] = f"team-{(number + 1) % TEAMS}"
                fleet.run_command("keys", "change", person, "--team", self._teams[person])
            self._wait_until_known(fleet)
            asyncio.run(self._send_all(fleet, self._requests - half))
            self._compare(fleet)
            self._compare_reports(fleet, webhook)

    def _create(self, fleet: Fleet, person: str, team: str) -> None:
        self._teams[person] = team
        self._keys[person] = fleet.run_command("keys", "create", person, "--owner", person, "--team", team)

    def _wait_until_known(self, fleet: Fleet) -> None:
        """Wait until each instance has read the last change: a key that was created after all others."""
        key = fleet.run_command("keys", "create", f"last-{self._random.random()}")
        for instance in fleet.instances:
            url = f"http://{instance.address}/v1/models"
            wait_for(
                lambda url=url: httpx.get(url, headers={"x-api-key": key}, trust_env=False),
                lambda reply: reply.status_code == 200,
            )

    async def _send_all(self, fleet: Fleet, count: int) -> None:
        numbers = iter(range(count))
        limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)

        async def work(client: httpx.AsyncClient) -> None:
            for _ in numbers:
                await self._send(client)

        async with httpx.AsyncClient(base_url=fleet.url, timeout=60, trust_env=False, limits=limits) as client:
            await asyncio.gather(*(work(client) for _ in range(CLIENTS)))

    async def _send(self, client: httpx.AsyncClient) -> None:
        choose, session = self._random.choice, f"job-{len(self._sent):06d}"
        person, kind, model = choose([*self._keys]), choose(KINDS), choose([*MODELS])
        day = datetime.now(UTC).astimezone().date().isoformat()
        groups = {"team": self._teams[person], "owner": person, "kind": kind, "model": MODELS[model], "day": day}
        self._sent.append(Sent(session, groups))
        body = {
            "model": model,
            "max_tokens": 1_000,
            "stream": self._random.random() < 0.7,
            "system": f"This is {session}.",
            "messages": [{"role": "user", "content": f"Count to {choose((5, 20, 60))}"}],
        }
        headers = {
            "x-api-key": self._keys[person],
            "x-claude-code-session-id": session,
            "x-claude-code-request-class": kind,
        }
        response = await client.post("/v1/messages", json=body, headers=headers)
        if response.status_code != 200:
            self.problems.append(f"{session}: status {response.status_code}: {response.text[:200]}")

    def _compare(self, fleet: Fleet) -> None:
        journals = [provider.journal.exchanges for provider in fleet.providers]
        tokens = read_journals(journals)
        print(
            f"{len(self._sent):,} requests of {PEOPLE} people; the providers counted {sum(tokens.values(), Tokens())}"
        )
        wait_for(
            lambda: json.loads(fleet.run_command("usage", "--json"))["total"]["requests"],
            lambda stored: stored == len(self._sent),
        )
        for by in GROUPS:
            self._compare_sums(by, self._add_up(tokens, lambda groups, by=by: (groups[by],)), read_sums(fleet, by))
        pairs = self._add_up(tokens, lambda groups: (groups["team"], groups["owner"], groups["kind"]))
        for number in range(TEAMS):
            team = f"team-{number}"
            expected = {names[1:]: counts for names, counts in pairs.items() if names[0] == team}
            found = read_sums(fleet, "owner", "--split", "kind", "--only", f"team={team}")
            self._compare_sums(f"owner and kind of {team}", expected, found)
            served = httpx.get(
                f"{fleet.url}/api/usage",
                params={"by": "owner", "split": "kind", "team": team},
                headers={"x-api-key": ADMIN},
                trust_env=False,
            )
            self._compare_sums(f"owner and kind of {team} by the API", expected, add_up(served.json()))

    def _add_up(
        self, tokens: Mapping[str, Tokens], find: Callable[[Mapping[str, str]], tuple[str, ...]]
    ) -> Mapping[tuple[str, ...], tuple[int, Tokens]]:
        found: dict[tuple[str, ...], tuple[int, Tokens]] = defaultdict(lambda: (0, Tokens()))
        for one in self._sent:
            number, counted = found[find(one.groups)]
            found[find(one.groups)] = number + 1, counted + tokens.get(one.session, Tokens())
        return found

    def _compare_sums(self, title: str, expected: Mapping[Any, Any], found: Mapping[Any, Any]) -> None:
        print(f"  by {title}: {len(found)} groups", flush=True)
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                self.problems.append(f"{title} {name}: sent {expected.get(name)}, stored {found.get(name)}")

    def _compare_reports(self, fleet: Fleet, webhook: Webhook) -> None:
        listed = httpx.get(f"{fleet.url}/admin/teams", headers={"x-api-key": ADMIN}, trust_env=False).json()["data"]
        shares = {team["name"]: team["spending"][0]["used"] * 100 / SOFT_BUDGET for team in listed}
        expected = sorted((team, one) for team, share in shares.items() for one in (80, 100) if share >= one)
        wait_for(lambda: len(webhook.accepted), lambda number: number >= len(expected))
        accepted = webhook.accepted
        print(f"  {len(accepted)} reports about budgets, and {len(_FAILURES)} that the webhook refused", flush=True)
        if (found := sorted((one["name"], one["threshold"]) for one in accepted)) != expected:
            self.problems.append(f"reports: {found}")
        logged = sum(instance.log_file.read_text("utf-8").count("of its budget: ") for instance in fleet.instances)
        if logged != len(expected):
            self.problems.append(f"{logged} lines in the logs about reports")


def read_sums(fleet: Fleet, by: str, *options: str) -> Mapping[tuple[str, ...], tuple[int, Tokens]]:
    return add_up(json.loads(fleet.run_command("usage", "--by", by, *options, "--json")))


def add_up(usage: Mapping[str, Any]) -> Mapping[tuple[str, ...], tuple[int, Tokens]]:
    parts = ("input_tokens", "cache_read_tokens", "cache_write_tokens")
    return {
        (row["name"], *([row["part"]] if "part" in row else [])): (
            row["requests"],
            Tokens(sum(row[part] for part in parts), row["output_tokens"]),
        )
        for row in usage["groups"]
    }
