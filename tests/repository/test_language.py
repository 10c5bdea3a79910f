"""Tests for the word list: the files of this repository follow it, and its checks find violations."""

import pytest

from tests.language import (
    ALLOWED_IN_TESTS,
    messages_name_their_subject,
    names_use_standard_terms,
    prose_names_its_subject,
    sentences_name_their_subject,
)
from tests.support.paths import ROOT

PACKAGE = ROOT / "anthropic_proxy"
OUTSIDE_THE_PACKAGE = ("bench", "scripts", "tests")
"""Folders with other Python files. Terms of tests are allowed in their names."""


def test_the_package_uses_standard_terms() -> None:
    findings = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).as_posix()
        name = relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        source = path.read_text("utf-8")
        found = (*names_use_standard_terms(name, source), *sentences_name_their_subject(source))
        found += tuple(messages_name_their_subject(relative, source))
        findings += [f"{relative}:{line}: {text}" for line, text in found]
    assert findings == []


@pytest.mark.parametrize("folder", OUTSIDE_THE_PACKAGE)
def test_files_outside_the_package_use_standard_terms(folder: str) -> None:
    findings = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        relative = path.relative_to(ROOT).as_posix()
        name = relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        source = path.read_text("utf-8")
        found = (*names_use_standard_terms(name, source, ALLOWED_IN_TESTS), *sentences_name_their_subject(source))
        findings += [f"{relative}:{line}: {text}" for line, text in found]
    assert findings == []


def test_documentation_names_its_subject() -> None:
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "bench/README.md",
        ROOT / "tests/golden/README.md",
    ]
    findings = [
        f"{name}:{line}: {text}"
        for name, path in sorted((page.relative_to(ROOT).as_posix(), page) for page in pages)
        for line, text in prose_names_its_subject(name, path.read_text("utf-8"))
    ]
    assert findings == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("server.desk", ""),
        ("server.utils", ""),
        ("wire.x", "MOST_BYTES = 1"),
        ("wire.x", "def tell(): ..."),
        ("wire.x", "def f(told): ..."),
        ("wire.x", "class DataHandler: ..."),
        ("wire.x", "x.longestRun = 1\nself.longestRun = 1"),
        ("wire.x", "for rest in y: ..."),
        ("wire.x", "import a as voice"),
        ("exchange.x", "class Part: ..."),
        ("exchange.x", "page = 1"),
    ],
)
def test_a_rejected_name_is_found(module: str, source: str) -> None:
    assert list(names_use_standard_terms(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("wire.gemini.frames", "class Part: ..."),
        ("upstream.web_fetch.fetcher", "page = 1"),
        ("wire.x", "data = params = 1"),
        ("wire.x", "x.said = 1"),
        ("wire.x", "restart = already = department = 1"),
    ],
)
def test_an_allowed_name_passes(module: str, source: str) -> None:
    assert not list(names_use_standard_terms(module, source))


def test_terms_of_tests_pass_in_tests() -> None:
    assert not list(names_use_standard_terms("tests.x", "page = parts = turn = 1", ALLOWED_IN_TESTS))
    assert list(names_use_standard_terms("tests.x", "said = 1", ALLOWED_IN_TESTS))


@pytest.mark.parametrize(
    "source",
    [
        '"""What the provider sends."""',
        'def f():\n    """Tell the client."""',
        'def f():\n    """Return what the provider sent."""',
        "class A:\n    x: int\n    '''Whoever waits.'''",
        "x = 1  # nobody reads it",
        "# it says so\nx = 1",
        '"""The SDK\'s own types say it: the servers\' fields."""',
    ],
)
def test_a_clause_in_place_of_a_name_is_found(source: str) -> None:
    assert list(sentences_name_their_subject(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""Return the reply."""',
        'def f():\n    """Raise if the body has `said`."""',
        "x = 'nobody'  # the text \"nobody\" is a field value",
        "x = 1  # the text 'nobody' is a field value",
        "x = 1  # what remains is sent later",
    ],
)
def test_a_plain_sentence_passes(source: str) -> None:
    assert not list(sentences_name_their_subject(source))


@pytest.mark.parametrize(
    "markdown",
    ["Nobody reads it.", "```\nx\n```\nThe page says so.", "| a | the door |", "A lesson is kept.", "It is under way."],
)
def test_a_clause_in_documentation_is_found(markdown: str) -> None:
    assert list(prose_names_its_subject("docs/x.md", markdown))


@pytest.mark.parametrize(
    "markdown",
    ["```\nnobody\n```", 'The field `said` and the text "nobody".', "Users who set it.", "A wire whose body is sent."],
)
def test_plain_documentation_passes(markdown: str) -> None:
    assert not list(prose_names_its_subject("docs/x.md", markdown))


def test_a_section_that_lists_rejected_words_passes() -> None:
    page = "## 12. Names\nthe door\n## 13. Docstrings\nnobody\n## 14. Rejected\nnobody\n"
    assert [line for line, _ in prose_names_its_subject("docs/contributing/architecture.md", page)] == [6]


@pytest.mark.parametrize("source", ["x = 'The key was not told to us.'", "x = f'It is said as {y} there.'"])
def test_a_clause_in_a_message_is_found(source: str) -> None:
    assert list(messages_name_their_subject("wire/x.py", source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("wire/x.py", "x = 'nobody'"),
        ("wire/x.py", "x = r'\\b(nobody at all is told)'"),
        ("wire/x.py", "x = 'The key was rejected by the provider.'"),
        ("upstream/demo/replies.py", "x = 'Nobody is there to answer.'"),
    ],
)
def test_other_texts_pass(path: str, source: str) -> None:
    assert not list(messages_name_their_subject(path, source))
