"""The cost center that an identity provider states for a person is stored with each request of that time."""

import json
from collections import Counter
from itertools import groupby
from pathlib import Path

from tests.support.command_line import run_command
from tests.support.dashboard import wait_for_request
from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.server_process import running_proxy
from tests.support.sign_in import Device, list_sign_in_settings
from tests.support.waiting import wait_for

ADMIN_KEY = "admin-canary0123456789abcdef01234567"
TABLES = """
[sign_in]
cost_center_claim = "company.cost_center"

[sign_in.groups."*"]
cost_center = "0000"
"""


def state(provider: FakeProvider, cost_center: object) -> None:
    user = {"sub": "1", "email": "ann@example.com", "email_verified": True}
    provider.user = {**user, "company": {"cost_center": cost_center}}


def test_a_person_who_changes_the_cost_center_moves_no_earlier_amount(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(TABLES, "utf-8")
    with running_provider() as provider:
        provider.offers_refresh = True
        settings = {
            **list_sign_in_settings(provider),
            "ADMIN_API_KEY": ADMIN_KEY,
            "SERVE_DEMO": "true",
            "DATABASE_URL": f"sqlite:///{tmp_path}/ledger.sqlite3",
        }
        with running_proxy(tmp_path, settings) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            admin = proxy.client(headers={"x-api-key": ADMIN_KEY})
            device = Device(proxy)

            def send() -> str:
                """Return the cost center that the request is stored with."""
                answer = device.send()
                assert answer.status_code == 200, answer.text
                wait_for_request(admin, answer.headers["request-id"])
                (newest,) = admin.get("/api/requests", params={"limit": 1}).json()["requests"]
                assert newest["id"] == answer.headers["request-id"]
                booked.append(newest["cost_center"])
                return booked[-1]

            booked: list[str] = []
            state(provider, "4711")
            device.sign_in()
            send()
            # a number; no name, so that the table counts; as before
            for stated, center in ((4712, "4712"), ("4\u0007711", "0000"), ("4711", "4711")):
                state(provider, stated)
                answer = device.refresh()
                assert answer.status_code == 200, answer.text
                device.tokens |= answer.json()
                wait_for(send, lambda found, center=center: found == center)
            assert [center for center, _ in groupby(booked)] == ["4711", "4712", "0000", "4711"]
            numbers = Counter(booked)
            sums = admin.get("/api/usage", params={"by": "cost-center", "since": "1h"}).json()
            assert {row["name"]: row["requests"] for row in sums["groups"]} == numbers
            found = admin.get("/api/requests", params={"cost-center": "4712"}).json()
            assert {row["cost_center"] for row in found["requests"]} == {"4712"}
            (key,) = admin.get("/admin/keys").json()["data"]
            assert (key["name"], key["cost_center"]) == ("ann@example.com", "4711")
            page = admin.get("/dashboard/costs", params={"by": "cost-center"})
            assert page.status_code == 200
            assert "4712" in page.text
        words = ("usage", "--by", "cost-center", "--only", "owner=ann@example.com", "--json")
        environment = {**settings, "DASHBOARD_URL": proxy.url}
        done = run_command(*words, directory=tmp_path, settings=environment)
        assert {row["name"]: row["requests"] for row in json.loads(done.stdout)["groups"]} == numbers
        assert provider.problems == []
