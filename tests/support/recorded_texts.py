"""A pytest plugin: texts that users see, compared with recorded ones.

The fixture `recorded` compares texts by title with `tests/recorded/<module>/<test>.txt`; `--update` writes that file.
A test of many inputs has its expected values there, beside each other and as users read them: review them as code.
"""

import re
from collections.abc import Callable, Mapping
from importlib.metadata import version

import pytest

from tests.support.paths import TESTS

Compare = Callable[[Mapping[str, str]], None]


def mask(text: str, **values: str) -> str:
    """Replace what differs between machines and versions by a name. `values`: more texts by their names."""
    from anthropic_proxy import __version__
    from anthropic_proxy.cli import commands
    from tests.support.provider_lists import OFFERED_PREFIXES, join_with_or, name_choices

    lists = {
        "PREFIXES": ", ".join([*OFFERED_PREFIXES, "bedrock", "foundry", "demo", "litellm"]),
        "OFFERED_PREFIXES": join_with_or(OFFERED_PREFIXES),
        "PROVIDERS": name_choices(),
        "COMMANDS": ", ".join(name for name in commands if not name.startswith("-")),
        "genai-prices VERSION": f"genai-prices {version('genai-prices')}",
        "VERSION": __version__,
    }
    for name, value in {**values, **lists}.items():
        text = text.replace(value, name)
    return re.sub(r"\d+ settings are not set", "N settings are not set", text)


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Compare:
    """Return a function that compares texts by title, once in a test. The folder `tmp_path` has the name HOME there."""
    module = request.path.relative_to(TESTS).with_suffix("")
    file = TESTS / "recorded" / module / f"{request.function.__name__}.txt"
    own = {"HOME": str(request.getfixturevalue("tmp_path"))} if "tmp_path" in request.fixturenames else {}

    def compare(texts: Mapping[str, str]) -> None:
        shown = mask("\n".join(f"== {title}\n{text}\n" for title, text in texts.items()), **own)
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(shown, "utf-8")
        assert shown == file.read_text("utf-8")

    return compare
