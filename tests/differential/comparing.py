"""The differences between two requests."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from tests.differential.reading import Item, RequestContent, as_json


class Difference(NamedTuple):
    """One thing that LiteLLM and we send differently; empty: not sent at all."""

    place: str
    """`system`, `system role`, `field <path>`, `<role> <kind>`, `call id`, `signature`, `tool <aspect>`, `all`."""
    theirs: str
    ours: str


def compare(theirs: RequestContent, ours: RequestContent) -> Iterator[Difference]:
    """Yield every difference."""
    if theirs.system != ours.system:
        yield Difference("system", theirs.system, ours.system)
    if theirs.system and ours.system and theirs.system_role != ours.system_role:
        yield Difference("system role", theirs.system_role, ours.system_role)
    for name in sorted({*theirs.fields, *ours.fields}):
        one, other = theirs.fields.get(name, ""), ours.fields.get(name, "")
        if one != other:
            yield Difference(f"field {name}", one, other)
    yield from _compare_items(theirs.items, ours.items)
    yield from _compare_tools(theirs.tools, ours.tools)


def _compare_items(theirs: list[Item], ours: list[Item]) -> Iterator[Difference]:
    matcher = SequenceMatcher(None, [_key(item) for item in theirs], [_key(item) for item in ours], autojunk=False)
    for operation, left, left_end, right, right_end in matcher.get_opcodes():
        if operation == "equal":
            for one, other in zip(theirs[left:left_end], ours[right:right_end], strict=True):
                yield from _compare_marks(one, other)
        else:
            yield from _compare_run(theirs[left:left_end], ours[right:right_end])


def _compare_run(theirs: list[Item], ours: list[Item]) -> Iterator[Difference]:
    """Pair values of one kind, in order. The remaining ones are sent by one side only."""
    left = list(theirs)
    for other in ours:
        one = next((item for item in left if (item.role, item.kind) == (other.role, other.kind)), None)
        if one is None:
            yield Difference(f"{other.role} {other.kind}", "", other.content)
            continue
        left.remove(one)
        if one.content != other.content:
            yield Difference(f"{other.role} {other.kind}", one.content, other.content)
        yield from _compare_marks(one, other)
    for one in left:
        yield Difference(f"{one.role} {one.kind}", one.content, "")


def _compare_marks(one: Item, other: Item) -> Iterator[Difference]:
    if one.id != other.id:
        yield Difference("call id", one.id, other.id)
    if one.signature != other.signature:
        yield Difference("signature", one.signature, other.signature)


def _compare_tools(theirs: dict[str, dict[str, Any]], ours: dict[str, dict[str, Any]]) -> Iterator[Difference]:
    left, right = list(theirs), list(ours)
    missing = [name for name in left if name not in right]
    added = [name for name in right if name not in left]
    for one, other in zip(missing, added, strict=False):
        yield Difference("tool name", one, other)
    for name in missing[len(added) :]:
        yield Difference("tool", name, "")
    for name in added[len(missing) :]:
        yield Difference("tool", "", name)
    pairs = [(name, name) for name in left if name in right] + list(zip(missing, added, strict=False))
    for one, other in pairs:
        for aspect in sorted({*theirs[one], *ours[other]} - {"name"}):
            expected, actual = theirs[one].get(aspect), ours[other].get(aspect)
            if expected != actual:
                yield Difference(
                    f"tool {aspect}",
                    "" if expected is None else as_json(expected),
                    "" if actual is None else as_json(actual),
                )


def _key(item: Item) -> tuple[str, str, str]:
    return item.role, item.kind, item.content
