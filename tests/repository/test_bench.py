"""The bench finds errors in a reply, and its page has a place for all of its output."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from bench.ledger_cost import find_median_interval
from bench.load import BenchError
from bench.measures import QUICK
from bench.pair import checked_out, find_python, write_pair
from bench.processes import Process
from bench.replies import find_defect, read_wanted
from bench.report import cell
from bench.results import ResultTable, Row, fit
from bench.scenario import Run, Table
from bench.subjects import DIRECT, PROXY, Subject, bare_environment
from tests.support.platform_marks import needs_uvloop

WANTED = read_wanted("bench-text-3")
HEAD = 'event: message_start\ndata: {"type":"message_start","message":{"content":[],"stop_reason":null}}\n\n'
END = 'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\nevent: message_stop\ndata: {}\n\n'


def stream(*texts: str, end: str = END) -> bytes:
    deltas = [f'data: {{"delta":{{"type":"text_delta","text":"{text}"}}}}\n\n' for text in texts]
    return (HEAD + "".join(deltas) + end).encode()


@pytest.mark.parametrize(("count", "first"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (12, 3), (15, 4), (25, 8)])
def test_the_confidence_interval_of_a_median_ends_at_the_ranks_of_the_sign_test(count: int, first: int) -> None:
    """The ranks are those of a table of the sign test for 95 %; with five values or fewer there is no such interval."""
    assert find_median_interval(range(1, count + 1)) == (first, count + 1 - first)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (stream("00000 ", "00001 ", "00002 "), ""),
        (stream("00000 ", "00002 "), "its text is not what was sent"),
        (stream("00000 ", "00002 ", "00001 "), "its text is not what was sent"),
        (stream("00000 ", "00001 ", "00002 ", "00002 "), "its text is not what was sent"),
        (stream("00000 ", "00001 00002 "), "3 pieces came as 2"),
        (stream("00000 ", "00001 ", "00002 ", end=END + END), "it ends 2 times"),
        (stream("00000 ", "00001 ", "00002 ", end=END.partition("event")[0]), "it ends 0 times"),
        (stream("00000 ", "00001 ", "00002 ", end="event: message_stop\n\n"), "it does not say why it stopped"),
        (
            stream("00000 ", "00001 ", "00002 ", end=END.replace("end_turn", "max_tokens")),
            "it does not say why it stopped",
        ),
    ],
)
def test_a_reply_that_is_not_what_was_sent_is_found(reply: bytes, fault: str) -> None:
    assert find_defect(reply, WANTED, separate=True) == fault


def test_a_line_through_points_is_the_nearest() -> None:
    exact = fit([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)])
    assert (exact.slope, exact.intercept, exact.residual, exact.determination) == pytest.approx((2, 1, 0, 1))
    bent = fit([(0.0, 1.0), (1.0, 2.0), (2.0, 1.0)])
    assert (bent.slope, bent.determination) == pytest.approx((0, 0))


@needs_uvloop
def test_a_peer_that_dies_loses_its_own_place_and_nothing_else(tmp_path: Path) -> None:
    def start(directory: Path, port: int, upstream: int) -> Process:
        return Process([sys.executable, "-c", "exit('no more')"], directory, bare_environment(), "peer", directory)

    peer = Subject(name="peer", translates=True, start=start, optional=True)
    table = Table(title="some", subjects=[DIRECT, peer], plan=structs.replace(QUICK, rounds=1), steps=("alone",))
    lines: list[str] = []
    asyncio.run(Run([table], tmp_path, lines.append, lambda _: None).measure())
    assert list(table.values["p99"]) == ["direct"]
    assert table.dashes["alone"] == {"peer": "did not start"}
    assert any("no more" in line for line in lines)


def test_a_value_within_its_spread_is_nobodys_best() -> None:
    row = Row(key="stream", title="stream", unit="ms", values={"noisy": [-390.0, 20.0], "steady": [2.0, 2.2]})
    assert (row.is_clear("noisy"), row.is_clear("steady")) == (False, True)
    assert cell(row, "noisy") == "not measurable (±205.0)"


def git(place: Path, *words: str) -> str:
    name = ("-c", "user.name=x", "-c", "user.email=x@example.com")
    return subprocess.run(["git", *name, *words], cwd=place, capture_output=True, text=True, check=True).stdout


def test_an_older_commit_is_checked_out_for_the_time_of_a_run(tmp_path: Path) -> None:
    checkout, directory = tmp_path / "checkout", tmp_path / "run"
    for place in (checkout, directory):
        place.mkdir()
    git(checkout, "init", "--quiet")
    for text in ("before", "now"):
        (checkout / "locks").mkdir(exist_ok=True)
        (checkout / "locks/runtime.lock").write_text("the same")
        (checkout / "code").write_text(text)
        git(checkout, "add", "-A")
        git(checkout, "commit", "--quiet", "-m", text)
    with checked_out("HEAD~1", directory, checkout) as place:
        assert (place / "code").read_text() == "before"
        assert find_python(place, checkout) == sys.executable
    assert not place.exists()
    assert len(git(checkout, "worktree", "list").splitlines()) == 1
    (checkout / "locks/runtime.lock").write_text("other packages")
    with (
        checked_out("HEAD", directory, checkout) as place,
        pytest.raises(BenchError, match=r"^the environment of the older commit cannot be made:\n.*pyproject\.toml"),
    ):
        find_python(place, checkout)  # made by pip, because the commit has no scripts/setup.py
    with pytest.raises(BenchError, match=r"--pair nothing: .*nothing"), checked_out("nothing", directory, checkout):
        raise AssertionError


def test_a_pair_is_compared_round_by_round() -> None:
    values = {"abc": [10.0, 20.0, 40.0], PROXY.name: [11.0, 21.0, 48.0]}
    row = Row(key="paced", title="CPU per event", unit="µs", values=values)
    lines = write_pair(ResultTable(title="x", names=["abc", PROXY.name], rounds=3, rows=[row]), "abc").splitlines()
    assert lines[0].split() == ["abc", "now", "now", "/", "before", "spread"]
    assert lines[2].split() == ["CPU", "per", "event,", "µs", "20.0", "±15.0", "21.0", "±18.5", "1.100", "±0.075", "*"]
