"""`ModelCapabilities`: the limits and features of a model, and functions that read them from the file `models.toml`.

`find_table_capabilities` returns the values for a model. `load_model_rows` reads the whole file. A `ModelRow` is one
row of the file: it applies to models of one provider with certain id prefixes. The fields `rejects_…` and
`…_from_error` of `ModelCapabilities` are not from the file: they contain limits that errors of the provider have shown.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field, structs


class ModelCapabilities(Struct, frozen=True, kw_only=True):
    """The limits and features of one model. The field defaults apply to unknown models."""

    context_window: int = 128_000
    """Maximum tokens of input and output together."""
    max_input: int | None = None
    """Maximum tokens of input alone. None: the whole context window."""
    max_output: int = 8_192
    """Maximum tokens of one reply."""
    efforts: tuple[str, ...] = ()
    """Supported levels of reasoning effort, of: none, minimal, low, medium, high, xhigh, max. Empty: no levels."""
    default_effort: str | None = None
    """Reasoning effort that the model uses if a request has no level. None: unknown."""
    accepts_images: bool = False
    """True if the model accepts image input."""
    accepts_pdf: bool = False
    """True if the model accepts PDF input."""
    tools: bool = True
    """True if the model supports tool calls."""
    known: bool = False
    """True if `models.toml` has a row for this model. False: the values are defaults, or those of an older version."""
    context_window_from_error: int | None = None
    """Context window in tokens from a provider error. Overrides `context_window`. None: no error stated one."""
    max_output_from_error: int | None = None
    """Output limit in tokens from an error of the provider. None: no error stated one."""
    rejects_images: bool = False
    """True if the provider rejected an image for the model."""
    rejects_documents: bool = False
    """True if the provider rejected a document for the model."""


_FILE = Path(__file__).parent.with_name("models.toml")
_VERSION = re.compile(r"\d+(?:[.-]\d{1,2}(?![0-9a-z]))*")
"""Version in a model id: `4.1` of `deepseek-v4.1-flash`, `5-5` of `claude-opus-5-5-20261001`, `2604` (a date)."""
_OTHER_VERSION = re.compile(r"[0-9a-z]|\.\d|-\d{1,2}(?![0-9a-z])")
"""Pattern of a text that, right after a matched id prefix, makes the id another model: `.1`, `-5`, `v` (`glm-5v`).

A size such as `-4b`, or a date, does not match: the id is still the same model."""
_FIRST_DATE = 1_000
"""Smallest first number of a version that counts as a date: `2604` is April 2026."""


class ModelRow(Struct, frozen=True, kw_only=True):
    """One row of `models.toml`: the limits and features of the models with certain id prefixes.

    A row without prefixes is the fallback for all other models of a provider.
    """

    id_prefixes: tuple[str, ...] = field(default=(), name="starts")
    """Beginnings of the model ids that the row applies to. Empty: the fallback for all other models."""
    covers_newer_versions: bool = field(default=False, name="newer")
    """True if the row also applies to later versions without a row: `gpt-6` to `gpt-7`."""
    source: str
    """Documentation page or file that the values of `capabilities` come from."""
    read_date: str = field(name="read")
    """Date on which `source` was read: `2026-11`, `2026-11-20`."""
    capabilities: ModelCapabilities
    """Limits and features of the models with these id prefixes."""


class _Name(Struct, frozen=True):
    """Model id split at its version: `claude-opus-`, (4, 8), `-20260901`."""

    family: str
    version: tuple[int, ...]
    suffix: str

    @property
    def is_dated(self) -> bool:
        """True if the version in the model id is a date, such as `2604`."""
        return self.version[0] >= _FIRST_DATE


class _Table(Struct, frozen=True):
    by_start: tuple[tuple[str, ModelCapabilities], ...]
    """Pairs of model id prefix and capabilities, longest prefix first."""
    newest: tuple[tuple[_Name, ModelCapabilities], ...]
    fallback: ModelCapabilities


def find_table_capabilities(provider: str, model: str) -> ModelCapabilities:
    """Return the limits and features of a model from `models.toml`, or the fallback values of its provider."""
    table = _load_tables().get(provider)
    if table is None:
        return ModelCapabilities()
    # prefix matches ignore dates and `-latest`, which are at the end
    name = model.lower().removeprefix("models/").removeprefix("ft:")
    for start, capabilities in table.by_start:
        if _begins(name, start):
            return capabilities
    vendor, slash, model_name = name.partition("/")
    if slash and vendor == provider:
        return find_table_capabilities(provider, model_name)
    return _find_newer(name, table) or table.fallback


def load_model_rows() -> dict[str, tuple[ModelRow, ...]]:
    """Read `models.toml` and return a mapping from provider name to its rows, in file order.

    Raises `msgspec.ValidationError` for an invalid row.
    """
    import tomllib  # noqa: PLC0415  # imported by the first request, to shorten the start

    tables: dict[str, dict[str, Any]] = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    loaded = {}
    for provider, table in tables.items():
        rows = [_read_row(row, known=True) for row in table.get("models", ())]
        if "fallback" in table:
            rows.append(_read_row(table["fallback"], known=False))
        for name in (provider, *table.get("also", ())):
            loaded[name] = tuple(rows)
    return loaded


def _read_row(given: dict[str, Any], *, known: bool) -> ModelRow:
    """Convert a TOML table to a row. `known`: value for `ModelCapabilities.known`.

    Raises `msgspec.ValidationError` if `source` or `read` is missing.
    """
    about = {name: value for name, value in given.items() if name in ModelRow.__struct_encode_fields__}
    capabilities = {name: value for name, value in given.items() if name not in about}
    return msgspec.convert({**about, "capabilities": {**capabilities, "known": known}}, ModelRow)


@cache
def _load_tables() -> dict[str, _Table]:
    tables = {}
    for provider, rows in load_model_rows().items():
        starts = [(start, row) for row in rows for start in row.id_prefixes]
        newest = [(_split(start), row.capabilities) for start, row in starts if row.covers_newer_versions]
        tables[provider] = _Table(
            tuple(sorted(((start, row.capabilities) for start, row in starts), key=lambda item: -len(item[0]))),
            tuple((name, capabilities) for name, capabilities in newest if name is not None),
            next((row.capabilities for row in rows if not row.id_prefixes), ModelCapabilities()),
        )
    return tables


def _begins(name: str, start: str) -> bool:
    """Return True if a model id begins with the prefix `start` and has the same version.

    `gpt-5.1` does not match the prefix `gpt-5`.
    """
    if not name.startswith(start):
        return False
    return not (start[-1].isdecimal() and _OTHER_VERSION.match(name, len(start)))


def _split(name: str) -> _Name | None:
    """Return prefix, version numbers and suffix of a model id. None: the id contains no version.

    `claude-opus-4-8-20260901` → `claude-opus-`, (4, 8), `-20260901`.
    """
    found = _VERSION.search(name)
    if found is None:
        return None
    version = tuple(int(number) for number in re.split("[.-]", found[0]))
    return _Name(name[: found.start()], version, name[found.end() :])


def _find_newer(name: str, table: _Table) -> ModelCapabilities | None:
    requested = _split(name)
    if requested is None:
        return None
    candidates = [
        (known.version[0], len(known.suffix), known.version, capabilities)
        for known, capabilities in table.newest
        if known.family == requested.family
        and known.is_dated == requested.is_dated
        and known.version < requested.version
        and requested.suffix.startswith(known.suffix)
        and (known.suffix or not requested.suffix[:1].isalpha())
    ]
    if not candidates:
        return None
    capabilities = max(candidates, key=lambda item: item[:3])[3]
    return structs.replace(capabilities, known=False)  # the limits of the newer model may be higher
