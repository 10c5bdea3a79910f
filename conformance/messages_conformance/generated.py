"""Values of rows that are too long to be written: texts and lists of many parts, each with its number.

`{ repeat = "line {n}\n", times = 3 }` is the text of three lines. `{ repeat = [A, B], times = 3 }`, as an element of a
list, stands for six elements. `{ join = ["a", { repeat = "b", times = 9 }] }` is one text. `{n}` is the number of the
repetition, from 0, so that a part that is lost, doubled or misplaced is seen. `{ null = true }` is null, which TOML
does not have.
"""

from collections.abc import Iterator
from typing import Any


def generate(value: Any) -> Any:
    """Return a value of a row with all that its tables `repeat` and `join` stand for."""
    if isinstance(value, dict):
        if value.keys() == {"repeat", "times"}:
            return _repeat_text(**value) if isinstance(value["repeat"], str) else list(_repeat(value))
        if value == {"null": True}:
            return None
        if value.keys() == {"join"}:
            return "".join(map(generate, value["join"]))
        return {name: generate(inner) for name, inner in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    elements = list[Any]()
    for element in value:
        generated = generate(element)
        is_many = isinstance(element, dict) and isinstance(element.get("repeat"), list) and isinstance(generated, list)
        elements += generated if is_many else [generated]
    return elements


def _repeat_text(repeat: str, times: int) -> str:
    if "{n}" not in repeat:
        return repeat * times
    return "".join(repeat.replace("{n}", str(number)) for number in range(times))


def _repeat(value: dict[str, Any]) -> Iterator[Any]:
    inner = generate(value["repeat"])
    for number in range(value["times"]):
        yield from number_texts(inner, str(number))


def number_texts(value: Any, number: str) -> Any:
    """Return a value with a number in place of each `{n}`."""
    if isinstance(value, str):
        return value.replace("{n}", number)
    if isinstance(value, dict):
        return {name.replace("{n}", number): number_texts(inner, number) for name, inner in value.items()}
    return [number_texts(inner, number) for inner in value] if isinstance(value, list) else value
