"""Facts about models: limits, features, prices and retirements, without anything that says where a request goes.

Theory of operation. The facts are one file, `models.toml`, apart from the code and from the addresses in
`vendors.toml`. It has a table for each vendor (`VendorFacts`), and no field for an address, a header, a credential or
a part of a body: so a newer file can replace it in an installation (`FACTS.replace`). A table is decoded at its first
use, because the TOML library takes 35 ms for all of them. What is derived from facts is cached with their file
(`cached_with_facts`).
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date
from functools import cache, cached_property, lru_cache, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field, structs

from anthropic_proxy.engine.efforts import Effort
from anthropic_proxy.engine.options import TokenCount
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.providers.price_fields import PriceTable
from anthropic_proxy.engine.providers.registry import ModelRule, RetiredModel
from anthropic_proxy.engine.wires.dialect import ForcedToolCondition, ThinkingForm

FACTS_FILE = Path(__file__).with_name("models.toml")
"""The facts of this release."""
FACTS_FORMAT = 1
"""Number of the format of the file. A file of another format is not read."""
ModelName = Annotated[str, Meta(pattern=r"^[\w:@+-][\w.:@+-]*(?:/[\w:@+-][\w.:@+-]*)*\Z", max_length=200)]
"""Id of a model. It may be part of the path of a URL, so no part between slashes is empty or begins with a dot."""
ModelPatterns = Annotated[str, Meta(pattern=r"^[\w./:@+*?\[\]! -]+\Z", max_length=1_000)]
"""`fnmatch` patterns of model ids, with spaces between them."""
Note = Annotated[str, Meta(pattern=r"^[ -~]+\Z", max_length=1_000)]
"""Printable text, because commands show it on terminals."""
ReadDate = Annotated[str, Meta(pattern=r"^20[0-9]{2}-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12][0-9]|3[01]))?\Z")]
"""Month or day on which a source was read: `2026-11`, `2026-11-20`."""


class ModelCapabilities(Struct, frozen=True, kw_only=True):
    """Limits and features of one model. The defaults apply to unknown models.

    The fields `rejects_…` and `…_from_error` come from errors of the provider.
    """

    context_window: int = 128_000
    """Maximum tokens of input and output together. Assumed if `known` is False."""
    max_input: int | None = None
    """Maximum tokens of input alone. None: the whole context window."""
    max_output: int | None = None
    """Maximum tokens of one reply. None: unknown."""
    efforts: tuple[str, ...] = ()
    """Supported levels of reasoning effort, of: none, minimal, low, medium, high, xhigh, max. Empty: no levels."""
    default_effort: str | None = None
    """Reasoning effort that the model uses if a request has no level. None: unknown."""
    accepts_images: bool = False
    accepts_pdf: bool = False
    tools: bool = True
    """True if the model supports tool calls."""
    known: bool = False
    """True if the limits are known. False: they are defaults, or those of an older version."""
    features_known: bool = False
    """True if all values are known, not only the limits that a server states."""
    context_window_from_error: int | None = None
    """Context window in tokens from a provider error. Overrides `context_window`. None: no error stated one."""
    max_output_from_error: int | None = None
    """Output limit in tokens from an error of the provider. None: no error stated one."""
    rejects_images: bool = False
    rejects_documents: bool = False
    reasons: Literal["", "unasked", "always"] = ""
    """What a reply has shown: the model reasons without being asked, or even if reasoning is disabled. "": nothing."""

    @property
    def effective_max_input(self) -> int:
        """Maximum tokens of input of one request: the size that a conversation can reach."""
        return self.context_window_from_error or self.max_input or self.context_window

    @property
    def effective_max_output(self) -> int | None:
        """Maximum tokens of one reply with which the proxy serves the model. None: unknown."""
        limits = (self.max_output if self.known else None, self.max_output_from_error)
        return min((limit for limit in limits if limit is not None), default=None)


class ModelRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and features of models."""

    id_prefixes: tuple[ModelName, ...] = field(default=(), name="starts")
    """Beginnings of the model ids that the row applies to. Empty: the fallback for all other models."""
    covers_newer_versions: bool = field(default=False, name="newer")
    """True if the row also applies to later versions without a row: `gpt-6` to `gpt-7`."""
    source: Note
    read_date: ReadDate = field(name="read")
    """Date on which `source` was read."""
    context_window: TokenCount | UnsetType = UNSET
    """This and the following fields are those of `ModelCapabilities`. Without it, the limits are unknown."""
    max_input: TokenCount | UnsetType = UNSET
    max_output: TokenCount | UnsetType = UNSET
    efforts: tuple[Effort, ...] | UnsetType = UNSET
    default_effort: Effort | UnsetType = UNSET
    accepts_images: bool | UnsetType = UNSET
    accepts_pdf: bool | UnsetType = UNSET
    tools: bool | UnsetType = UNSET

    @property
    def capabilities(self) -> ModelCapabilities:
        given = {name: value for name in _FEATURES if (value := getattr(self, name)) is not UNSET}
        is_known = bool(self.id_prefixes) and "context_window" in given
        return ModelCapabilities(known=is_known, features_known=is_known, **given)


_FEATURES = tuple(name for name in ModelRow.__struct_fields__ if name in ModelCapabilities.__struct_fields__)


class ModelTraits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What models are capable of over each API and at each host, as fields that each `Dialect` has."""

    ids: ModelPatterns
    thinking_forms: tuple[ThinkingForm, ...] | UnsetType = UNSET
    accepts_forced_tool: ForcedToolCondition | UnsetType = UNSET
    source: Note
    read_date: ReadDate = field(name="read")

    def build_rules(self) -> Iterator[ModelRule]:
        fields = {name: value for name in _TRAITS if (value := getattr(self, name)) is not UNSET}
        return (ModelRule(pattern, fields, self.source, self.read_date) for pattern in self.ids.split())


_TRAITS = ("thinking_forms", "accepts_forced_tool")


class VendorPrices(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[NAME.prices]`: the prices of a vendor at its own address."""

    source: Note
    read_date: ReadDate = field(name="read")
    """Date of the prices in `source`."""
    models: dict[ModelName, PriceTable]
    """Model id → prices. They apply if no price list has the model."""
    corrections: dict[ModelName, PriceTable] = {}
    """The same for models with another price in the list. These precede it."""

    def require_valid_names(self, vendor: str) -> None:
        """Raise `ValueError` for the name of a tier or region that no reply can have."""
        for kind, tables in (("models", self.models), ("corrections", self.corrections)):
            for model, table in tables.items():
                for fields in (table, *table.earlier):
                    for field_name, name in fields.find_names_of_no_reply():
                        raise ValueError(
                            f'{vendor}.prices.{kind}."{model}".{field_name} has "{name}", whose prices are the '
                            "fields of the table itself"
                        )


class Retirements(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[[NAME.retired]]`: one announcement of the vendor."""

    source: Note
    read_date: ReadDate = field(name="read")
    announced_on: date | None = None
    ends: tuple[tuple[date, ModelName, tuple[ModelName, ...]], ...]
    """Date, successor, and the models that retire on this date."""


class VendorFacts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[NAME]`: the models of a vendor."""

    like: str = ""
    """Name of the table with the facts that this one does not state, which has no `like`. "": none."""
    models: tuple[ModelRow, ...] = ()
    """Models with known limits."""
    fallback: ModelRow | None = None
    """Row for the other models."""
    prices: VendorPrices | None = None
    retired: tuple[Retirements, ...] = ()
    traits: tuple[ModelTraits, ...] = ()
    """These hold at every vendor. Later rows take precedence, and the rules in `vendors.toml` precede all."""


_TABLE_LINE = compile_later(r"^\[(\w+)\]$", re.MULTILINE)
_TRAITS_LINE = "\ntraits = [\n"


def split_tables(text: str) -> tuple[str, dict[str, str]]:
    """Return what stands before the first table of a TOML file, and name → table as text. A line of its own begins each
    table: `[NAME]`.
    """
    head, *pieces = _TABLE_LINE.split(text)
    return head, {name: f"[{name}]{body}" for name, body in zip(pieces[::2], pieces[1::2], strict=True)}


class _Head(Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    date: date


Parameters = ParamSpec("Parameters")
ResultT = TypeVar("ResultT")


class FactsFile:
    """A file with facts. `origin`: where it comes from, for messages. "": this release."""

    def __init__(self, text: str, origin: str = "") -> None:
        self.origin = origin
        self._head, self._tables = split_tables(text)
        self._decoded: dict[str, VendorFacts] = {}
        self._caches: dict[Callable[..., Any], Callable[..., Any]] = {}

    @cached_property
    def date(self) -> date:
        return self._decode_head().date

    @property
    def names(self) -> list[str]:
        """Names of the tables."""
        return list(self._tables)

    def find(self, name: str) -> VendorFacts | None:
        """None: the file has no table of this name."""
        facts = self._decoded.get(name)
        if facts is None and name in self._tables:
            facts = self._decoded[name] = msgspec.convert(self._read_table(name), VendorFacts)
        return facts

    def find_prices(self, name: str) -> VendorPrices | None:
        """None: no prices of this vendor are known."""
        facts = self.find(name)
        return None if facts is None else facts.prices

    def list_traits(self) -> Iterator[ModelTraits]:
        for name, text in self._tables.items():
            if _TRAITS_LINE in text and (facts := self.find(name)) is not None:
                yield from facts.traits

    def find_cached(self, function: Callable[..., ResultT], max_results: int | None) -> Callable[..., ResultT]:
        """Return the function with a cache of its results for these facts."""
        cached = self._caches.get(function)
        if cached is None:
            cached = self._caches.setdefault(function, lru_cache(max_results)(function))
        return cached

    def require_valid(self) -> None:
        """Decode the whole file. Raises `ValueError`, whose text says what is wrong."""
        head = self._decode_head()
        if head.format != FACTS_FORMAT:
            raise ValueError(f"its format is {head.format}, and this release reads format {FACTS_FORMAT}")
        for name in self._tables:
            try:
                prices = self.find_prices(name)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"[{name}]: {error}") from None
            if prices is not None:
                prices.require_valid_names(name)

    def _decode_head(self) -> _Head:
        return msgspec.convert(tomllib.loads(self._head), _Head)

    def _read_table(self, name: str) -> dict[str, Any]:
        table = self._read_own_table(name)
        like = table.get("like")
        if not like:
            return table
        below = self._read_own_table(like) if like in self._tables else {}
        if not below or "like" in below:
            raise ValueError(f"like is {like!r}, and must be the name of a table without this field")
        return {**below, **table}

    def _read_own_table(self, name: str) -> dict[str, Any]:
        tables = tomllib.loads(self._tables[name])
        if list(tables) != [name]:
            raise ValueError("a part of another table stands here")
        table: dict[str, Any] = tables[name]
        return table


_tried: ContextVar[FactsFile | None] = ContextVar("tried", default=None)
"""The facts with which settings are checked. None: those in force."""


class _FactsInForce:
    """The facts of this process: those of the settings in force."""

    def __init__(self) -> None:
        self._file: FactsFile | None = None

    @property
    def file(self) -> FactsFile:
        tried = _tried.get()
        if tried is not None:
            return tried
        if self._file is None:
            self._file = load_built_in_facts()
        return self._file

    def replace(self, file: FactsFile) -> None:
        """A start and an accepted reload of the settings do this. Reading settings does not."""
        self._file = file

    @contextmanager
    def replacing(self, file: FactsFile) -> Iterator[None]:
        """Replace the facts, unless the block fails."""
        before = self._file
        self.replace(file)
        try:
            yield
        except BaseException:
            self._file = before
            raise

    @contextmanager
    def trying(self, file: FactsFile) -> Iterator[None]:
        """Use other facts in this context only, to check settings: their tables name models."""
        token = _tried.set(file)
        try:
            yield
        finally:
            _tried.reset(token)


FACTS = _FactsInForce()


@cache
def load_built_in_facts() -> FactsFile:
    return FactsFile(FACTS_FILE.read_text(encoding="utf-8"))


def cached_with_facts(
    max_results: int | None = None,
) -> Callable[[Callable[Parameters, ResultT]], Callable[Parameters, ResultT]]:
    """Cache the results of a function for each file with facts. `max_results` None: no limit."""

    def decorate(function: Callable[Parameters, ResultT]) -> Callable[Parameters, ResultT]:
        @wraps(function)
        def find_result(*args: Parameters.args, **kwargs: Parameters.kwargs) -> ResultT:
            return FACTS.file.find_cached(function, max_results)(*args, **kwargs)

        return find_result

    return decorate


_VERSION = compile_later(r"\d+(?:[.-]\d{1,2}(?![0-9a-z]))*")
"""Version in a model id: `4.1` of `deepseek-v4.1-flash`, `5-5` of `claude-opus-5-5-20261001`, `2604` (a date)."""
_OTHER_VERSION = compile_anchored(r"[0-9a-z]|\.\d|-\d{1,2}(?![0-9a-z])")
"""Pattern of a text that, right after a matched id prefix, makes the id another model: `.1`, `-5`, `v` (`glm-5v`).

A size such as `-4b`, or a date, does not match: the id is still the same model."""
_FIRST_DATE = 1_000
"""Smallest first number of a version that counts as a date: `2604` is April 2026."""


class _Name(Struct, frozen=True):
    """Model id split at its version: `claude-opus-`, (4, 8), `-20260901`."""

    family: str
    version: tuple[int, ...]
    suffix: str

    @property
    def is_dated(self) -> bool:
        return self.version[0] >= _FIRST_DATE


class _Table(Struct, frozen=True):
    by_start: tuple[tuple[str, ModelCapabilities], ...]
    """Pairs of model id prefix and capabilities, longest prefix first."""
    newest: tuple[tuple[_Name, ModelCapabilities], ...]
    fallback: ModelCapabilities


def find_table_capabilities(provider: str, model: str) -> ModelCapabilities:
    table = _load_table(provider)
    if table is None:
        return ModelCapabilities()
    # prefix matches ignore dates and `-latest`, which are at the end
    name = model.lower().removeprefix("models/").removeprefix("ft:").rpartition("anthropic.")[2]
    for start, capabilities in table.by_start:
        is_other_version = start[-1].isdecimal() and _OTHER_VERSION.match(name, len(start))  # gpt-5.1 is not gpt-5
        if name.startswith(start) and not is_other_version:
            return capabilities
    vendor, slash, model_name = name.partition("/")
    if slash and vendor == provider:
        return find_table_capabilities(provider, model_name)
    requested = _split(name)
    earlier = [
        (known, capabilities)
        for known, capabilities in table.newest
        if requested is not None
        and known.family == requested.family
        and known.is_dated == requested.is_dated
        and known.version < requested.version
        and requested.suffix.startswith(known.suffix)
        and (known.suffix or not requested.suffix[:1].isalpha())
    ]
    if not earlier:
        return table.fallback
    _, nearest = max(earlier, key=lambda one: (one[0].version[0], len(one[0].suffix), one[0].version))
    # the limits of the newer model may be higher
    return structs.replace(nearest, known=False, features_known=False)


def load_model_rows(table: str) -> tuple[ModelRow, ...]:
    """Return the rows of one vendor, the fallback last. Raises `msgspec.ValidationError`."""
    facts = FACTS.file.find(table)
    if facts is None:
        return ()
    return (*facts.models, *((facts.fallback,) if facts.fallback is not None else ()))


@cached_with_facts()
def load_retired_models(table: str) -> Mapping[str, RetiredModel]:
    """Return model → its retirement, at one vendor. Raises `msgspec.ValidationError`."""
    facts = FACTS.file.find(table)
    return {
        model: RetiredModel(
            retired_on=day.isoformat(),
            successor=successor,
            source=announcement.source,
            read_date=announcement.read_date,
            announced_on="" if announcement.announced_on is None else announcement.announced_on.isoformat(),
        )
        for announcement in (() if facts is None else facts.retired)
        for day, successor, models in announcement.ends
        for model in models
    }


def list_model_names() -> Iterator[str]:
    """Yield all names of models, and beginnings of names, that the facts have."""
    for table in FACTS.file.names:
        for row in load_model_rows(table):
            yield from row.id_prefixes
        yield from load_retired_models(table)


@cached_with_facts()
def build_rules_of_models() -> tuple[ModelRule, ...]:
    """Return the rules for models at any host, with fields that the dialect of each API has."""
    return tuple(rule for traits in FACTS.file.list_traits() for rule in traits.build_rules())


@cached_with_facts()
def _load_table(table: str) -> _Table | None:
    rows = load_model_rows(table)
    if not rows:
        return None
    starts = [(start, row.capabilities) for row in rows for start in row.id_prefixes]
    newest = [
        (_split(start), row.capabilities) for row in rows for start in row.id_prefixes if row.covers_newer_versions
    ]
    return _Table(
        tuple(sorted(starts, key=lambda item: -len(item[0]))),
        tuple((name, capabilities) for name, capabilities in newest if name is not None),
        next((row.capabilities for row in rows if not row.id_prefixes), ModelCapabilities()),
    )


_VERSION_SEPARATOR = compile_later("[.-]")


def _split(name: str) -> _Name | None:
    """Split a model id at its version: `claude-opus-`, (4, 8), `-20260901`. None: it has no version."""
    found = _VERSION.search(name)
    if found is None:
        return None
    version = tuple(int(number) for number in _VERSION_SEPARATOR.split(found[0]))
    return _Name(name[: found.start()], version, name[found.end() :])
