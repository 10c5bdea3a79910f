"""The bounds of all parts of a deployment are below the memory that it states."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.console.ledger.receipt_queue import MAX_BUFFERED_BYTES
from anthropic_proxy.engine.documents.reader import PDF_PROGRAM, PROCESSES
from anthropic_proxy.engine.engine import PATTERN_SEARCHES
from anthropic_proxy.engine.exchange.tool_loop.tool_search import REGEX_PROGRAM
from anthropic_proxy.engine.memory_plan import (
    DEFAULT_BYTES,
    LARGEST_BODY_BYTES,
    MAX_PROCESSES,
    MIB,
    MIN_BYTES,
    PAGE_BYTES,
    PATTERN_BYTES,
    PDF_BYTES,
    SUPERVISOR_BYTES,
    USUAL_BODY_BYTES,
    WORKER_BYTES,
    divide_memory,
)
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.upstream.web_fetch import CONVERSIONS, HTML_CONVERTER
from anthropic_proxy.gateway.memory import describe_small_memory
from anthropic_proxy.gateway.platforms.memory import find_memory_limit
from anthropic_proxy.gateway.server.auth import MAX_REQUEST_BYTES
from anthropic_proxy.gateway.settings import load_settings
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("megabytes", "workers", "expected"),
    [
        (1_824, 1, (1, 40, 16, 32, 1_024)),
        (2_048, 1, (1, 49, 22, 32, 1_322)),
        (2_432, 1, (2, 40, 16, 32, 1_024)),
        (3_840, 2, (1, 40, 16, 32, 1_024)),
        (5_860, 1, (2, 182, 111, 32, 5_594)),
        (65_536, 4, (2, 512, 128, 512, 19_562)),
        (512, 1, (1, 40, 16, 32, 1_024)),
    ],
)
def test_the_memory_of_the_deployment_is_divided(megabytes: int, workers: int, expected: tuple[int, ...]) -> None:
    plan = divide_memory(megabytes * MIB, workers)
    found = (plan.body_bytes // MIB, plan.small_bytes // MIB, plan.unread_bytes // MIB)
    assert (plan.processes, *found, plan.connections) == expected


@given(st.integers(1, 64), st.integers(0, 1 << 36))
def test_the_parts_of_all_workers_need_no_more_than_there_is(workers: int, more: int) -> None:
    supervisor = SUPERVISOR_BYTES if workers > 1 else 0
    total = supervisor + workers * MIN_BYTES + more
    assert supervisor + workers * divide_memory(total, workers).sum_bytes() <= total


@given(st.integers(0, 1 << 34))
def test_the_parts_of_bodies_are_those_of_the_plan(more: int) -> None:
    plan = divide_memory(MIN_BYTES + more)
    usual, larger = plan.divide_body_bytes()
    assert usual + larger == plan.body_bytes
    assert usual >= 2 * USUAL_BODY_BYTES
    assert larger >= LARGEST_BODY_BYTES


def test_what_a_worker_keeps_is_a_part_of_its_bound() -> None:
    kept = [
        math.prod(map(int, found.split(" * ")))
        for path in (ROOT / "anthropic_proxy").rglob("*.py")
        for found in re.findall(r"^MAX_KEPT_BYTES = ([\d* _]+)$", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert len(kept) >= 8
    assert sum(kept) + MAX_BUFFERED_BYTES + 100 * MIB <= WORKER_BYTES


def test_the_bounds_of_the_plan_are_those_of_the_programs() -> None:
    bounds = (PATTERN_BYTES, PAGE_BYTES, PDF_BYTES, LARGEST_BODY_BYTES)
    programs = (REGEX_PROGRAM, HTML_CONVERTER, PDF_PROGRAM)
    assert bounds == (*(program.memory_bytes for program in programs), MAX_REQUEST_BYTES)


def test_the_numbers_of_processes_are_those_of_the_shared_workers() -> None:
    assert {worker.places for worker in (PROCESSES, CONVERSIONS, PATTERN_SEARCHES)} == {MAX_PROCESSES}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("deploy/helm/anthropic-proxy/values.yaml", r"limits:\n    memory: (\d+)Gi"),
        ("deploy/kubernetes/anthropic-proxy.yaml", r"limits:\n +memory: (\d+)Gi"),
        ("compose.yaml", r"mem_limit: (\d+)g"),
        ("deploy/systemd/anthropic-proxy.service", r"MemoryMax=(\d+)G"),
    ],
)
def test_the_shipped_limits_cover_the_sum(file: str, line: str) -> None:
    (limit,) = re.findall(line, (ROOT / file).read_text("utf-8"))
    assert divide_memory(int(limit) * 1024 * MIB).sum_bytes() <= int(limit) * 1024 * MIB == DEFAULT_BYTES


GROUPS = {
    "version 2 in a container": ("0::/\n", {"memory.max": "1073741824\n"}, 1 << 30),
    "version 2 of a service": (
        "0::/system.slice/proxy.service\n",
        {
            "memory.max": "max\n",
            "system.slice/memory.max": "2147483648\n",
            "system.slice/proxy.service/memory.max": "max",
        },
        2 << 30,
    ),
    "version 1": (
        "5:cpuset:/\n4:memory,hugetlb:/pods/one\n0::/\n",
        {
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "memory/pods/one/memory.limit_in_bytes": "536870912\n",
        },
        512 << 20,
    ),
    "no limit": ("0::/\n", {"memory.max": "max\n"}, None),
    "a line that leads elsewhere": ("0::/../../etc\nx\n::\n", {"memory.max": "many"}, None),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_limit_is_the_smallest_of_the_control_groups(name: str, tmp_path: Path) -> None:
    process, files, expected = GROUPS[name]
    (tmp_path / "cgroup").write_text(process)
    for file, text in files.items():
        path = tmp_path / "groups" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert find_memory_limit(tmp_path / "cgroup", tmp_path / "groups") == expected


def test_a_system_without_control_groups_states_no_limit(tmp_path: Path) -> None:
    assert find_memory_limit(tmp_path / "missing", tmp_path) is None


@pytest.mark.parametrize(
    ("variables", "workers", "expected"),
    [
        ({"MEMORY_LIMIT_MB": "1824"}, 1, ""),
        ({"MEMORY_LIMIT_MB": "3840"}, 2, ""),
        (
            {"MEMORY_LIMIT_MB": "512"},
            1,
            "The memory is limited to 512 MB (MEMORY_LIMIT_MB), but large requests, PDFs and pages may need 1824 MB, "
            "so that the system could end the proxy. Raise the limit.",
        ),
        (
            {"MEMORY_LIMIT_MB": "2048", "MAX_BODY_MEMORY_MB": "512"},
            4,
            "The memory is limited to 2048 MB (MEMORY_LIMIT_MB), but large requests, PDFs and pages may need 22592 MB, "
            "so that the system could end the proxy. Raise the limit, or use fewer workers, or lower "
            "MAX_BODY_MEMORY_MB=512.",
        ),
    ],
)
def test_a_limit_that_does_not_suffice_is_said_at_the_start(
    variables: dict[str, str], workers: int, expected: str
) -> None:
    settings = load_settings(variables, PROVIDERS, env_file=None)
    assert describe_small_memory(settings, workers) == expected
