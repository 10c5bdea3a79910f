"""`FieldRule`: what becomes of a field of another configuration. `rules.toml` has those without a setting here."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from anthropic_proxy.cli.importing.parts import decode_scalar
from anthropic_proxy.cli.importing.plan import UNKNOWN_ENTRY, ImportPlan, find_referenced_variable
from anthropic_proxy.gateway.settings.files import format_toml_value
from anthropic_proxy.gateway.settings.values import is_secret_variable

EMPTY: tuple[object, ...] = ("", None, [], {}, False)
"""Values of entries that change nothing in the other proxy."""


class FieldRule(Struct, frozen=True):
    """Without `setting` and `note`, a reader treats the field by itself."""

    path: str
    """Names of fields, separated by spaces. `*` stands for any text."""
    note: str = ""
    """What the proxy does instead. In it and in `line`, `{value}` stands for the value, and readers add more names."""
    line: str = ""
    """What the user can paste."""
    setting: str = ""
    """Variable that gets the value. "": none."""
    decode: Callable[[ImportPlan, str, str], str] = lambda _plan, _path, text: text
    """Returns the value of the variable for a path and its text. "": none."""
    is_harmless: bool = False
    """True if nothing changes for the user without the entry."""


@cache
def load_rules(kind: str) -> Mapping[str, Sequence[FieldRule]]:
    """Return the rules of `rules.toml` for a kind of configuration: name of a part of it → rules."""
    tables = tomllib.loads(Path(__file__).with_name("rules.toml").read_text("utf-8"))[kind]
    return {
        part: [FieldRule(path, **(row if isinstance(row, dict) else {"note": row})) for path, row in table.items()]
        for part, table in tables.items()
    }


def read_fields(
    plan: ImportPlan,
    rules: Sequence[FieldRule],
    fields: Mapping[str, Any],
    place: str = "",
    names: Mapping[str, str] | None = None,
) -> None:
    """Add the settings and notes for `fields` to `plan`. The first rule that fits counts.

    Of several fields for a setting, that of the first rule counts. `place`: beginning of the paths in notes. `names`:
    name in notes → its text.
    """
    settings: dict[str, tuple[int, str, str]] = {}
    for name, value in fields.items():
        path = f"{place}{name}"
        fitting = (any(fnmatchcase(str(name), pattern) for pattern in rule.path.split()) for rule in rules)
        position = next((at for at, fits in enumerate(fitting) if fits), None)
        if position is None:
            plan.add_note(path, UNKNOWN_ENTRY)
            continue
        rule = rules[position]
        if rule.setting:
            present = settings.get(rule.setting)
            if present is None or position < present[0]:
                settings[rule.setting] = position, path, decode_scalar(plan, value, path)
        elif rule.note:
            texts = {**(names or {}), "value": format_toml_value(str(value))}
            plan.add_note(path, _fill(rule.note, texts), _fill(rule.line, texts), is_harmless=rule.is_harmless)
    for position, path, text in settings.values():
        rule = rules[position]
        reference = find_referenced_variable(text)
        if is_secret_variable(rule.setting) and not plan.has_variables:
            plan.set_secret_reference(rule.setting, text, path)
        elif text and reference != rule.setting:
            value = f"${{{reference}}}" if reference else rule.decode(plan, path, text)
            if value and rule.setting not in plan.variables:
                plan.variables[rule.setting] = value
                plan.origins.setdefault(rule.setting, path)


def _fill(template: str, texts: Mapping[str, str]) -> str:
    for word, text in texts.items():
        template = template.replace(f"{{{word}}}", text)
    return template
