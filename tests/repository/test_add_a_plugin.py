"""The example of docs/contributing/plugins.md, applied to a copy of this project, and the facts of that page."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from anthropic_proxy.app import application
from anthropic_proxy.log.receipts import MAX_QUEUED_RECEIPTS
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.server.endpoints import PROBE_PATHS
from tests.support.example_diffs import EXAMPLES, apply_to_copy, changed_lines, python_in
from tests.support.paths import ROOT

DIFF = EXAMPLES / "add-a-plugin.diff"
PAGE = (ROOT / "docs/contributing/plugins.md").read_text("utf-8")
TOUCHED = ("repository/test_architecture", "unit/test_plugins", "unit/test_settings")
"""Tests that read the package, the settings or the list of plugins."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("plugin")
    apply_to_copy(DIFF, folder)
    yield folder
    shutil.rmtree(folder)


def test_the_page_names_every_file_of_the_example() -> None:
    assert [name for name in changed_lines(DIFF) if f"`{name}`" not in PAGE] == []
    assert DIFF.name in PAGE


def test_the_plugin_stores_an_exchange(copy: Path) -> None:
    assert " passed" in python_in(copy, "-m", "pytest", "-q", "tests/unit/test_usage_ledger.py")


@pytest.mark.slow  # three test modules of the suite once more
def test_no_other_test_has_to_change(copy: Path) -> None:
    output = python_in(copy, "-m", "pytest", "-q", *(f"tests/{name}.py" for name in TOUCHED))
    assert " passed" in output
    assert " failed" not in output


def test_the_page_lists_every_field_of_a_receipt() -> None:
    table = PAGE.partition("## Fields of a receipt")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(Receipt.__struct_fields__)


def test_the_page_states_the_limits_of_the_code() -> None:
    assert f"{MAX_QUEUED_RECEIPTS:,} receipts" in PAGE
    assert f"{application.SHUTDOWN_GRACE_SECONDS:.0f} s" in PAGE
    assert all(f"`{path}`" in PAGE for path in PROBE_PATHS)
