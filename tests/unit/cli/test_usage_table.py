"""Table of the command `usage` in a terminal."""

import os
import sys
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.cli.usage import usage, write_table
from anthropic_proxy.console.ledger.activity import Activity
from anthropic_proxy.console.ledger.queries import UsageGroup
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.engine.providers.price_fields import PriceTable
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from tests.support.terminal import read_output


def show_table(
    monkeypatch: pytest.MonkeyPatch,
    groups: list[UsageGroup],
    by: str,
    sessions: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    **options: Any,
) -> list[str]:
    """Return the lines of the table in a terminal with 80 columns."""
    pty = pytest.importorskip("pty", reason="platform: no terminals with signals")
    termios = pytest.importorskip("termios", reason="platform: no terminals with signals")
    monkeypatch.setenv("NO_COLOR", "1")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        write_table(settings or Settings(), by, groups, "since 24h", sessions or {}, **options)
        monkeypatch.undo()
    shown = "".join(iter(lambda: read_output(ours), ""))  # the terminal may deliver its output in pieces
    os.close(ours)
    return shown.replace("\r\n", "\n").splitlines()


def new_group(name: str, dollars: float) -> UsageGroup:
    sums = UsageSums(requests=1, input_tokens=1_200, output_tokens=30, cost=round(dollars * 1_000_000_000))
    return UsageGroup(name=name, sums=sums)


def test_a_long_name_hides_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show_table(monkeypatch, [new_group("p" * 200, 2), new_group("shop", 2)], "project")
    assert lines[2:6] == [
        f"  Project{' ' * 31}  Requests  Input  Cached  Output   Cost",
        f"  {'p' * 37}…         1  1,200     0 %      30  $2.00",
        f"  shop{' ' * 34}         1  1,200     0 %      30  $2.00",
        f"  all{' ' * 35}         2  2,400     0 %      60  $4.00",
    ]


def test_the_bill_of_a_team_has_a_row_for_each_person_and_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [
        structs.replace(new_group("ann", 3), part=("main",)),
        structs.replace(new_group("ann", 0.5), part=("auto_mode_check",)),
        structs.replace(new_group("", 1), part=("",)),
    ]
    lines = show_table(monkeypatch, groups, "owner", split="kind", forecast=9_000_000_000)
    assert [line.rstrip(" █") for line in lines[:8]] == [
        "3 requests, 3 succeeded, cost $4.50.",
        "About $9.00 is expected by the end of the month.",
        "",
        "  Owner     Kind             Requests  Input  Cached  Output   Cost  By cost",
        "  ann       main                    1  1,200     0 %      30  $3.00",
        "  ann       auto_mode_check         1  1,200     0 %      30  $0.50",
        "  no owner  unknown                 1  1,200     0 %      30  $1.00",
        "  all                               3  3,600     0 %      90  $4.50",
    ]


@pytest.mark.parametrize("text", ["team", "no=1", "=1", ""])
def test_a_filter_names_a_property_and_its_value(text: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        usage(only=["team=web", text])
    assert raised.value.message == (
        f'--only is "{text}". Use a property and its value, such as team=build. Properties: outcome, provider, model, '
        "requested, project, session, kind, agent, prompt, verdict, key, owner, team, cost-center, route."
    )


def test_each_day_has_a_bar_also_without_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show_table(monkeypatch, [new_group("2026-11-20", 2), new_group("2026-11-22", 1)], "day")
    assert lines[2:7] == [
        "  Day         Requests  Input  Cached  Output   Cost  By cost",
        f"  2026-11-20         1  1,200     0 %      30  $2.00  {'█' * 16}",
        "  2026-11-21         0      0       –       0      –",
        f"  2026-11-22         1  1,200     0 %      30  $1.00  {'█' * 8}",
        "  all                2  2,400     0 %      60  $3.00",
    ]


def test_bars_get_shorter_before_they_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show_table(monkeypatch, [new_group("provider/a-model-with-a-name", 2), new_group("b", 1)], "project")
    assert lines[3:5] == [
        f"  provider/a-model-with-a-name         1  1,200     0 %      30  $2.00  {'█' * 8}",
        f"  b{' ' * 27}         1  1,200     0 %      30  $1.00  {'█' * 4}",
    ]


def test_bars_narrower_than_their_title_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show_table(monkeypatch, [new_group("provider/a-model-with-one-name", 2), new_group("b", 1)], "project")
    assert lines[2:6] == [
        f"  Project{' ' * 23}  Requests  Input  Cached  Output   Cost",
        "  provider/a-model-with-one-name         1  1,200     0 %      30  $2.00",
        f"  b{' ' * 29}         1  1,200     0 %      30  $1.00",
        f"  all{' ' * 27}         2  2,400     0 %      60  $3.00",
    ]


@pytest.mark.parametrize(
    ("costs", "shown"),
    [
        ({"cost": 77_000_000, "requested_cost": 110_000_000}, "cost $0.077, $0.11 at Claude's prices."),
        ({"requested_cost": 260_000_000}, "cost free, $0.26 at Claude's prices."),
        (
            {"requested_cost": 260_000_000, "unknown_requested_cost_requests": 1},
            "cost free, ≥ $0.26 at Claude's prices.",
        ),
        ({"cost": 77_000_000, "requested_cost": 77_000_000}, "cost $0.077."),
        ({"cost": 14_000_000, "unknown_cost_requests": 1, "requested_cost": 72_000_000}, "cost ≥ $0.014."),
        ({"cost": 77_000_000, "unknown_requested_cost_requests": 1}, "cost $0.077."),
    ],
)
def test_a_cost_is_compared_with_that_of_the_requested_models(
    monkeypatch: pytest.MonkeyPatch, costs: dict[str, int], shown: str
) -> None:
    group = UsageGroup(name="m", sums=UsageSums(requests=1, input_tokens=13_700, output_tokens=72, **costs))
    lines = show_table(monkeypatch, [group], "project")
    assert lines[0] == f"1 request, 1 succeeded, {shown}"
    reasons = [line for line in lines if line.startswith("  ≥")]
    if "≥ $0.26" in shown:
        assert reasons == ["  ≥: at least, because some of the requested models have no Claude price"]
    elif "≥" in shown:
        assert reasons == ["  ≥: at least, because some of these requests have no known price"]
    else:
        assert reasons == []
    assert lines[3].split()[:5] == ["m", "1", "13.7", "k", "0"]
    assert lines[3].split()[5:7] == ["%", "72"]


def test_the_id_of_a_session_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "7d575ca2-edaf-4c88-8416-ea7d76f1680e"
    group = new_group(name, 1_000)
    group.sums.unknown_cost_requests = 3
    lines = show_table(monkeypatch, [group], "session")
    assert lines[2:5] == [
        f"  Session{' ' * 29}  Requests  Input  Cached         Cost",
        f"  {name}         1  1,200     0 %  ≥ $1,000.00",
        f"  all{' ' * 33}         1  1,200     0 %  ≥ $1,000.00",
    ]


def test_a_model_without_a_price_is_named_with_the_lines_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    group = UsageGroup(name="qwen", provider="own", sums=UsageSums(requests=2, unknown_cost_requests=2))
    assert show_table(monkeypatch, [group], "model")[5:10] == [
        "  The cost of 2 of 2 requests is unknown: own/qwen, which replied, has no price",
        "  in genai-prices for its address.",
        "  Add prices per million tokens to anthropic-proxy.toml:",
        '    [prices."own/qwen"]',
        "    input = <dollars>",
    ]
    gateway = UsageGroup(name="gpt-4.1", provider="openai", sums=group.sums)
    settings = Settings(base_urls={"openai": "https://models.example/v1"}, env_file="/srv/proxy/.env")
    assert show_table(monkeypatch, [gateway], "model", settings=settings)[5:8] == [
        "  The cost of 2 of 2 requests is unknown: openai/gpt-4.1, which replied, has no",
        "  price in genai-prices for its address.",
        "  Add prices per million tokens to /srv/proxy/anthropic-proxy.toml:",
    ]
    hostile = UsageGroup(name='💎"b\x1b[31m\u202e\x7f\U000e0001', provider="own", sums=group.sums)
    shown = show_table(monkeypatch, [hostile], "model")
    assert shown[8] == r'    [prices."own/💎\"b\u001b[31m\u202e\u007f\U000e0001"]'
    assert tomllib.loads(shown[8]) == {"prices": {'own/💎"b\x1b[31m\u202e\x7f\U000e0001': {}}}
    assert "".join(shown).isprintable()
    day = UsageGroup(name="2026-11-20", sums=group.sums)
    assert show_table(monkeypatch, [day], "day")[5:7] == [
        "  The cost of 2 of 2 requests is unknown. Their models:",
        "  anthropic-proxy usage --by model",
    ]


def test_all_models_without_a_price_are_named_with_the_lines_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    names, sums = ("gpt-4.1", "gpt-4.1-mini", "gpt-5.5"), UsageSums(requests=2, unknown_cost_requests=1)
    groups = [UsageGroup(name=name, provider="openai", sums=sums) for name in names]
    settings = Settings(base_urls={"openai": "https://models.example/v1"})
    shown = show_table(monkeypatch, groups[:2], "model", settings=settings)
    assert shown[6:16] == [
        "  The cost of 2 of 4 requests is unknown: openai/gpt-4.1 and",
        "  openai/gpt-4.1-mini, which replied, have no price in genai-prices for their",
        "  address.",
        "  Add prices per million tokens to anthropic-proxy.toml:",
        '    [prices."openai/gpt-4.1"]',
        "    input = <dollars>",
        "    output = <dollars>",
        '    [prices."openai/gpt-4.1-mini"]',
        "    input = <dollars>",
        "    output = <dollars>",
    ]
    priced = Settings(prices={f"openai/{name}": PriceTable(input=1, output=2) for name in names})
    assert show_table(monkeypatch, groups, "model", settings=priced)[7:10] == [
        "  The cost of 3 of 6 requests is unknown: the price was set later, or the number",
        "  of tokens or the price of a service tier is unknown. A cost is calculated when",
        "  a request ends; a later price does not change it.",
    ]


def test_a_session_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"7d575ca2-edaf-4c88-8416-ea7d76f1680e": "Fix the login of the shop"}
    lines = show_table(monkeypatch, [new_group(next(iter(names)), 2), new_group("", 1)], "session", names)
    assert [line.partition("    ")[0] for line in lines[3:5]] == ["  Fix the login of the shop", "  no session"]


def test_tokens_are_written_as_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = UsageSums(requests=1, cache_read_tokens=22_903_000, input_tokens=310_000, output_tokens=4_000)
    lines = show_table(monkeypatch, [UsageGroup(name="gpt", provider="own", sums=sums)], "model")
    assert lines[2:4] == [
        "  Model    Requests   Input  Cached  Output  Cost  By tokens",
        f"  own/gpt         1  23.2 M    99 %   4,000  free  {'█' * 16}",
    ]


def test_work_that_claude_code_states_is_shown_with_the_cost_of_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    ann = structs.replace(new_group("ann", 6), activity=Activity(lines_added=1_200, lines_removed=40, commits=4))
    bob = structs.replace(new_group("bob", 1), activity=Activity(edits_rejected=1))
    lines = show_table(monkeypatch, [ann, bob], "owner")
    assert lines[2:6] == [
        "  Owner  Requests  Input  Cached  Output   Cost       Lines  Commits  Per commit",
        "  ann           1  1,200     0 %      30  $6.00  +1,200 -40        4       $1.50",
        "  bob           1  1,200     0 %      30  $1.00           –        0           –",
        "  all           2  2,400     0 %      60  $7.00  +1,200 -40        4       $1.75",
    ]
