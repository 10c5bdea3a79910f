"""Differences between two files with facts about models, in words and money: what `models update` changes."""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from msgspec import UNSET, Struct, structs

from anthropic_proxy.engine.providers.model_facts import FactsFile, VendorFacts
from anthropic_proxy.gateway.money import format_price

_OTHERS = "other models"
_NAMES = {
    "accepts_images": "images",
    "accepts_pdf": "PDF",
    "covers_newer_versions": "newer versions too",
    "max_input": "input limit",
    "max_output": "output limit",
    "request_per_1000": "1,000 requests",
    "tools": "tool calls",
    "web_search_per_1000": "1,000 web searches",
}
"""Field → its name in texts. Others are named by their words."""
_ABOUT_A_ROW = frozenset({"source", "read_date", "id_prefixes", "ids"})

_Facts = dict[tuple[str, str], dict[str, str]]
"""Table, and model or other subject of rows → name of a fact → its value as text."""


def describe_changes(before: FactsFile, after: FactsFile) -> list[str]:
    """Return a line for each model whose facts differ, in the order of the tables."""
    old, new = _collect(before), _collect(after)
    lines = []
    for key in dict.fromkeys((*old, *new)):
        if key not in old:
            text = f"new: {_join(new[key])}"
        elif key not in new:
            text = f"removed: {_join(old[key])}"
        else:
            text = "; ".join(_compare(old[key], new[key]))
        if text:
            lines.append(f"{', '.join(key)}: {text}")
    return lines


def _join(values: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {text}" for name, text in values.items())


def _compare(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        was, now = old.get(name, "unknown"), new.get(name, "unknown")
        if was != now:
            yield f"{name} {was} → {now}"


def _collect(file: FactsFile) -> _Facts:
    facts: _Facts = {}
    for table in file.names:
        vendor = file.find(table)
        assert vendor is not None  # the file has the table
        for subject, values in _list_facts(vendor):
            facts.setdefault((table, subject), {}).update(values)
    return facts


def _list_facts(vendor: VendorFacts) -> Iterator[tuple[str, dict[str, str]]]:
    rows = vendor.models if vendor.fallback is None else (*vendor.models, vendor.fallback)
    for row in rows:
        for start in row.id_prefixes or (_OTHERS,):
            yield start, _describe_fields(row)
    if vendor.prices is not None:
        for model, table in vendor.prices.models.items():
            yield model, _describe_fields(table, "price of ")
        for model, table in vendor.prices.corrections.items():
            yield model, _describe_fields(table, "price in place of the list's, of ")
    for announcement in vendor.retired:
        for day, successor, models in announcement.ends:
            for model in models:
                yield model, {"retires on": f"{day} (successor {successor})"}
    for traits in vendor.traits:
        yield traits.ids, _describe_fields(traits)


def _describe_fields(row: Struct, lead: str = "") -> dict[str, str]:
    return {
        f"{lead}{_NAMES.get(name, name.replace('_', ' '))}": _show(value)
        for name, value in structs.asdict(row).items()
        if name not in _ABOUT_A_ROW and value is not UNSET and (value or isinstance(value, bool | float))
    }


def _show(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return format_price(value)
        case date():
            return value.isoformat()
        case Struct():
            return f"({', '.join(f'{name} {text}' for name, text in _describe_fields(value).items())})"
        case dict():
            return ", ".join(f"{name} {_show(inner)}" for name, inner in value.items())
        case list() | tuple():
            return ", ".join(map(_show, value))
        case _:
            return str(value)
