"""The clock of Redis decides the day of a budget, whatever the clocks of the servers show."""

from pathlib import Path

import pytest

from tests.support.clocks import set_clock
from tests.support.command_line import run_command
from tests.support.process_checks import MESSAGES, ask
from tests.support.redis import find_redis, running_redis
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(find_redis() is None, reason="engine: redis-server is not installed")

DAY_AND_HOUR = 25 * 3_600


@pytest.mark.parametrize("seconds", [DAY_AND_HOUR, -DAY_AND_HOUR], ids=["ahead", "behind"])
def test_a_server_whose_clock_is_wrong_gives_no_budget_again(tmp_path: Path, seconds: int) -> None:
    folders = [tmp_path / name for name in ("right", "wrong")]
    for folder in folders:
        folder.mkdir()

    with running_redis() as redis:
        shared = {
            "SERVE_DEMO": "true",
            "VIRTUAL_KEYS": "true",
            "REDIS_URL": redis.url,
            "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
        }
        budget = ("--budget", "300tokens/day")
        key = run_command("keys", "create", "ci", *budget, directory=folders[0], settings=shared).stdout.strip()

        def send(proxy: Proxy) -> int:
            body = ask("hello", model="demo/demo", max_tokens=20)
            return proxy.client().post(MESSAGES, json=body, headers={"x-api-key": key}).status_code

        with (
            running_proxy(folders[0], shared) as right,
            running_proxy(folders[1], shared | set_clock(seconds)) as wrong,
        ):
            wait_for(lambda: send(right), lambda status: status == 429)
            assert send(wrong) == 429
            direction = "ahead of" if seconds > 0 else "behind"
            client = wrong.client()
            checks = wait_for(lambda: client.get("/readyz"), lambda reply: "clock" in reply.json()["checks"])
            assert (checks.status_code, checks.json()["checks"]["clock"]) == (200, f"25.0 h {direction} that of Redis")
            assert "clock" not in right.client().get("/readyz").json()["checks"]
            text = f"The clock of this server is 25.0 h {direction} that of Redis. Correct it, for example with NTP."
            wait_for(lambda: text in wrong.log)
