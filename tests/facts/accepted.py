"""The entries of `accepted.toml`: differences from the packages of others that stay, each with a reason."""

import re
import tomllib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ACCEPTED = Path(__file__).with_name("accepted.toml")


class Acceptance(NamedTuple):
    source: str
    """Name of the package."""
    text: str
    """Difference, as it is printed. `*` stands for any text, in the name of a model for text without a space."""
    reason: str


class Accepted:
    """Entries, and which of them have accepted a difference. Raises `ValueError` for one that stands twice."""

    def __init__(self, entries: Iterable[Acceptance]) -> None:
        self._exact: dict[tuple[str, str], Acceptance] = {}
        self._patterns: dict[Acceptance, re.Pattern[str]] = {}
        self.used = set[Acceptance]()
        for one in entries:
            if (one.source, one.text) in self._exact or one in self._patterns:
                raise ValueError(f"{one.text} stands twice")
            if "*" in one.text:
                self._patterns[one] = _compile(one.text)
            else:
                self._exact[one.source, one.text] = one

    def find(self, source: str, difference: str) -> Acceptance | None:
        if (exact := self._exact.get((source, difference))) is not None:
            return exact
        patterns = (one for one, pattern in self._patterns.items() if pattern.fullmatch(difference))
        return next((one for one in patterns if one.source == source), None)

    def accept(self, source: str, difference: str) -> Acceptance | None:
        found = self.find(source, difference)
        if found is not None:
            self.used.add(found)
        return found

    def list_unused(self, sources: Collection[str]) -> Iterator[str]:
        """Yield a line for each entry about these packages that has accepted nothing."""
        for one in (*self._exact.values(), *self._patterns):
            if one.source in sources and one not in self.used:
                yield f"accepted.toml: no difference any more: {one.source}: {one.text}"


def _compile(text: str) -> re.Pattern[str]:
    name, space, fact = text.partition(" ")
    return re.compile(
        r"\S*".join(map(re.escape, name.split("*"))) + ".*".join(map(re.escape, f"{space}{fact}".split("*")))
    )


def load_accepted() -> Accepted:
    """Raises `KeyError` for an entry that is not complete."""
    entries = tomllib.loads(ACCEPTED.read_text("utf-8"))["accepted"]
    return Accepted(
        Acceptance(entry["source"], text, f"{entry['reason']}, {entry['date']}")
        for entry in entries
        for text in entry["differences"]
    )
