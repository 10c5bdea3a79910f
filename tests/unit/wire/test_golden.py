"""Every folder `tests/golden/<wire>/<topic>/<case>/` is one case; `tests/golden/README.md` explains how to add one."""

import itertools
import json
import random
from pathlib import Path

import pytest

from tests.support.golden_runner import GoldenCase, ReplayResult, find_cases, fold_events, read_fields
from tests.support.paths import GOLDEN
from tests.support.tables import in_one_test

FOLDERS = find_cases()
RANDOM_CUTS = 50


def title(folder: Path) -> str:
    return str(folder.relative_to(GOLDEN))


def compare(folder: Path, name: str, actual: bytes | None, update: bool) -> None:
    """Compare with an expectation, or rewrite it; None: the file must not be there."""
    path = folder / name
    if update:
        if actual is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(actual)
        return
    expected = path.read_bytes() if path.exists() else None
    assert (actual or b"").decode() == (expected or b"").decode(), f"{title(folder)}/{name} differs"


def cut(body: bytes, points: list[int]) -> list[bytes]:
    edges = sorted({0, len(body), *points})
    return [body[start:end] for start, end in itertools.pairwise(edges)]


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.mark.parametrize("folder", FOLDERS, ids=title)
def test_scenario(folder: Path, update: bool) -> None:
    scenario = GoldenCase(folder)
    upstream = scenario.upstream or b""
    whole = scenario.play([upstream])
    if scenario.upstream is not None:
        assert scenario.fields.get("status", 200) != 200 or scenario.streams == scenario.call().streams_upstream, (
            "the upstream's file must be streamed exactly where the upstream is asked to stream"
        )
        compare(folder, "expected_upstream_request.json", scenario.upstream_request(), update)
    compare(folder, "expected_events.sse", whole.events, update)
    derived = whole.events and whole.message and fold_events(whole.events) == json.loads(whole.message)
    compare(folder, "expected_message.json", None if derived else whole.message, update)
    compare(folder, "expected_error.json", whole.error, update)
    assert_cuts_do_not_matter(scenario, upstream, whole)


def assert_cuts_do_not_matter(scenario: GoldenCase, upstream: bytes, whole: ReplayResult) -> None:
    """Replay each way in which the bytes may arrive. Those that give the decoder the same are replayed once."""
    bytewise = [bytes([byte]) for byte in upstream]
    assert scenario.play(bytewise) == whole, "one byte at a time gives another answer"
    replayed = {scenario.list_decoded([upstream]), scenario.list_decoded(bytewise)}
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(RANDOM_CUTS if upstream else 0):
        points = [chance.randrange(len(upstream)) for _ in range(chance.randint(1, 8))]
        fragments = cut(upstream, points)
        if (decoded := scenario.list_decoded(fragments)) not in replayed:
            assert scenario.play(fragments) == whole, f"cut at {sorted(points)} it gives another answer"
            replayed.add(decoded)


@in_one_test
@pytest.mark.parametrize("folder", FOLDERS, ids=title)
def test_each_scenario_names_its_source(folder: Path) -> None:
    fields = read_fields(folder)
    assert fields["title"]
    assert fields["source"]
    of_the_answer = {"status", "headers"}
    of_the_proxy = {"settings", "dialect", "capabilities", "proves", "is_refused"}
    assert set(fields) <= {"title", "source", "provider", "model", "client", *of_the_answer, *of_the_proxy}
