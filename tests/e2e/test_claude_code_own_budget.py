"""`BUDGET` in Claude Code: the amount in the status line, the notice, the refusal, and the next day."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from anthropic_proxy.gateway.settings import CONFIG_FILE
from tests.e2e.terminal import Terminal, terminal
from tests.e2e.test_claude_code_daily import CODE, own_variables, wait_for_status_line
from tests.support.server_process import running_proxy

PRICES = '[prices."openai/*"]\ninput = 0\noutput = 1000\n'
"""A token of a reply costs one percent of the budget: `Count to 70` uses 70 % of it."""


def zone_with_midnight_at(moment: datetime) -> str:
    """Return a value of `TZ` for which a day begins at this moment."""
    return f"<TST>{moment.astimezone(UTC):%H:%M:%S}"


@pytest.mark.slow
def test_a_budget_of_a_day_is_announced_refused_and_renewed(
    claude: Path, settings: dict[str, str], server: Path, work: Path
) -> None:
    """The day begins anew with a restart in another time zone: there, the use was before midnight."""
    (server / CONFIG_FILE).write_text(PRICES, encoding="utf-8")
    home = work.parent / "home"
    home.mkdir()
    settings |= {
        "BIG_MODEL": "gpt-4.1",
        "BUDGET": "0.10USD/day",
        "DATABASE_URL": f"sqlite:///{server / 'ledger.sqlite3'}",
    }

    @contextmanager
    def session(midnight: datetime) -> Iterator[Terminal]:
        zone = zone_with_midnight_at(midnight)
        with running_proxy(server, {**settings, "TZ": zone}) as proxy:
            variables = own_variables(claude, settings, home) | {"PORT": proxy.url.rpartition(":")[2], "TZ": zone}
            with terminal(Path(sys.executable), "", work, *CODE, **variables) as screen:
                yield screen
            assert "Traceback" not in proxy.log

    end = (datetime.now(UTC) + timedelta(hours=12)).replace(microsecond=0)
    with session(end) as screen:
        for prompt, last, amount, notice in (
            ("Count to 70", "69 70", "today $0.070 of $0.10", "% cached"),
            ("Count to 10", "9 10", "today $0.080 of $0.10", "· ! budget today: 80 % used"),
            (
                "Count to 20",
                "19 20",
                "today $0.10 of $0.10",
                f"· ✕ budget today: used up until {end.day} {end:%b}, 00:00",
            ),
        ):
            screen.type(prompt)
            screen.wait_for(last)
            wait_for_status_line(screen, partial(_ends_with, amount, notice))
        screen.type("Count to 3")
        screen.wait_for(
            "API Error: Request rejected (429) · This proxy has used up its budget of $0.10 per day · "
            f"resets {end:%b} {end.day}, 00:00 · Another budget: BUDGET=AMOUNT/day"
        )
        wait_for_status_line(screen, partial(_ends_with, "today $0.10 of $0.10", "00:00"))
    with session(datetime.now(UTC)) as screen:
        screen.type("Count to 4")
        screen.wait_for("1 2 3 4")
        wait_for_status_line(screen, partial(_ends_with, "today $0.004 of $0.10", "% cached"))


def _ends_with(amount: str, end: str, line: str) -> bool:
    return amount in line and line.endswith(end)
