"""The example of docs/contributing/plugins.md, applied to a copy of this project, and the facts of that page."""

import ast
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
OTHER_NAMES = {
    "values of a receipt": {"cancelled", "default", "fast", "flex"},
    "names of the HTTP API": {"count_tokens", "speed", "traceparent"},
    "names of other modules": {
        "ClientError",
        "FIXED_VARIABLES",
        "MAX_UPSTREAM_CALLS",
        "MAY_IMPORT",
        "PLUGIN_PACKAGES",
        "ProxyError",
        "open_plugin",
        "plugins",
        "redact_secrets",
    },
}
"""Names in the tables of the page that the plugin interface does not define."""


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


def interface_names() -> set[str]:
    """Return the names of classes, functions, parameters, attributes and fields in `anthropic_proxy/plugins/`."""
    names = set()
    for path in (ROOT / "anthropic_proxy/plugins").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_the_tables_use_the_names_of_the_interface() -> None:
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    # a name, or a call such as `record(request_id, point, data)`
    codes = re.findall(r"`([A-Za-z_]\w*(?:\([\w, ]*\))?)`", rows)
    names = set(re.findall(r"\w+", " ".join(codes)))
    assert names - interface_names() == set().union(*OTHER_NAMES.values())
