"""The example of docs/contributing/add-a-provider.md, applied to a copy of this project."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site.generated import PAGES
from tests.support.example_diffs import EXAMPLES, apply_to_copy, changed_lines, python_in
from tests.support.paths import ROOT, TESTS

DIFF = EXAMPLES / "add-a-provider.diff"
PAGE = ROOT / "docs/contributing/add-a-provider.md"
CODE = {
    "anthropic_proxy/routing/providers/openai_chat.py",
    "anthropic_proxy/routing/models.toml",
}
PAPERS = {".env.example", "CHANGELOG.md", "docs/guide/providers.md"}
GENERATED = {"docs/reference/settings.md", "anthropic_proxy/dashboard/setting_meanings.json"}
SCENARIO = "tests/golden/openai_chat/thinking/together_thinking/"
LISTS = "tests.support.provider_lists"
TOUCHED = (
    "integration/test_legacy_settings",
    "repository/test_architecture",
    "repository/test_generated_pages",
    "unit/cli/test_ask",
    "unit/routing/catalog/test_catalog",
    "unit/routing/test_credentials",
    "unit/routing/test_router",
    "unit/test_messages_to_users",
    "unit/upstream/test_demo",
)
"""Tests that read the table of providers, or the papers that list them, besides those that import `LISTS`."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("provider")
    apply_to_copy(DIFF, folder)
    python_in(folder, "-m", "tests.site", "--write")
    yield folder
    shutil.rmtree(folder)


def test_the_example_changes_what_the_page_names_and_no_more() -> None:
    names = set(changed_lines(DIFF))
    assert {name for name in names if not name.startswith(SCENARIO)} == CODE | PAPERS
    assert {SCENARIO + name for name in ("case.toml", "request.json", "upstream.sse")} < names
    page = PAGE.read_text("utf-8")
    assert all(f"`{name}`" in page for name in {*CODE, *PAPERS, SCENARIO})
    assert DIFF.name in page


def test_the_page_names_the_generated_pages_that_change(copy: Path) -> None:
    pages = {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert {name for name in pages if (copy / name).read_bytes() != (ROOT / name).read_bytes()} == GENERATED
    page = PAGE.read_text("utf-8")
    assert all(f"`{name}`" in page for name in GENERATED)


def test_its_code_is_data() -> None:
    lines = [line for name in CODE for line in changed_lines(DIFF)[name]]
    assert all(line.startswith("+") for line in lines)
    assert len(lines) <= 40
    assert not [line for line in lines if re.search(r"\b(def|class|if|import|lambda)\b", line)]


def test_it_is_no_provider_of_ours_already() -> None:
    assert "together" not in (ROOT / "anthropic_proxy/routing/providers/openai_chat.py").read_text("utf-8")


def test_its_golden_scenario_plays(copy: Path) -> None:
    assert re.search(
        r"\b2 passed",
        python_in(copy, "-m", "pytest", "-q", "tests/unit/wire/test_golden.py", "-k", "together_thinking"),
    )


def test_requests_are_routed_to_the_new_provider(copy: Path) -> None:
    output = python_in(
        copy,
        "-c",
        "from anthropic_proxy.routing.catalog import Catalog\n"
        "from anthropic_proxy.routing.providers import PROVIDERS\n"
        "from anthropic_proxy.routing.router import RoutingQuery, list_tier_mappings, resolve_route\n"
        "from anthropic_proxy.settings import load_settings\n"
        "settings = load_settings({'TOGETHER_API_KEY': 'k'}, PROVIDERS, env_file=None)\n"
        "print(*(row.target for row in list_tier_mappings(settings, Catalog())[:2]))\n"
        "for asked in ('claude-haiku-4-5', 'together/any', 'zai-org/GLM-5.1'):\n"
        "    target = resolve_route(RoutingQuery(asked), settings, Catalog()).targets[0]\n"
        "    print(target.provider.title, target.model, target.base_url, target.capabilities.context_window)\n",
    )
    assert output.splitlines() == [
        "together/openai/gpt-oss-20b together/zai-org/GLM-5.1",
        "Together AI openai/gpt-oss-20b https://api.together.ai/v1 131072",
        "Together AI any https://api.together.ai/v1 128000",
        "Together AI zai-org/GLM-5.1 https://api.together.ai/v1 202752",
    ]


@pytest.mark.slow
def test_no_other_test_has_to_change(copy: Path) -> None:
    users = sorted(path.relative_to(ROOT).as_posix() for path in TESTS.rglob("test_*.py") if LISTS in path.read_text())
    names = [name for name in users if name != Path(__file__).relative_to(ROOT).as_posix()]
    output = python_in(copy, "-m", "pytest", "-q", *names, *(f"tests/{name}.py" for name in TOUCHED))
    assert " failed" not in output
    assert " passed" in output
