"""A pytest plugin: tests of many inputs, with inputs and results in files. `--update` writes the results; review them.

`golden` compares the results of one function with `tests/golden_texts/<name>.txt`. The lines of an input begin with
`<`, the lines of its result with `>`, and all others are comments.
"""

import re
from collections.abc import Callable
from importlib.metadata import version

import pytest

from tests.support.paths import TESTS

Check = Callable[[str, Callable[[str], str]], None]
GOLDEN = TESTS / "golden_texts"
_CASE = re.compile(r"((?:^<.*\n)+)(?:^>.*\n)*", re.MULTILINE)
_MARK = re.compile(r"^[<>] ?", re.MULTILINE)


def mask(text: str, **values: str) -> str:
    """Replace what differs between machines and versions by a name. `values`: more texts by their names."""
    from anthropic_proxy import __version__
    from anthropic_proxy.cli.commands import commands
    from tests.support.provider_lists import OFFERED, OFFERED_PREFIXES, join_with_or, name_choices

    lists = {
        "PREFIXES": ", ".join([*OFFERED_PREFIXES, "bedrock", "foundry", "demo", "litellm"]),
        "OFFERED_PREFIXES": join_with_or(OFFERED_PREFIXES),
        "PROVIDERS": name_choices(),
        "ALL_PROVIDERS": ", ".join(row.name for row in OFFERED),  # before those of the configuration file
        "COMMANDS": ", ".join(name for name in commands if not name.startswith("-")),
        "genai-prices VERSION": f"genai-prices {version('genai-prices')}",
        "VERSION": __version__,
    }
    for name, value in {**values, **lists}.items():
        text = text.replace(value, name)
    return re.sub(r"\d+ settings are not set", "N settings are not set", text)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Check:
    """Return a function that converts each input of a file and compares the results with those in the file."""

    def check(name: str, convert: Callable[[str], str]) -> None:
        file = GOLDEN / f"{name}.txt"
        written = file.read_text("utf-8")

        def show(case: re.Match[str]) -> str:
            lines = convert(_MARK.sub("", case[1]).removesuffix("\n")).split("\n")
            return case[1] + "".join(f"> {line}".rstrip() + "\n" for line in lines)

        shown = _CASE.sub(show, written)
        if request.config.getoption("--update-golden"):
            file.write_text(shown, "utf-8")
        else:
            assert shown == written

    return check


def golden_files(folder: str) -> list[str]:
    """Return the names of the files of one function."""
    return sorted(file.relative_to(GOLDEN).with_suffix("").as_posix() for file in (GOLDEN / folder).glob("*.txt"))
