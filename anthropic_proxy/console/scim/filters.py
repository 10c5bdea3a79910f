"""Filters and paths of SCIM (RFC 7644, sections 3.4.2.2 and 3.5.2), as functions over a resource."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console.scim.errors import ScimError
from anthropic_proxy.console.scim.paths import Kind
from anthropic_proxy.console.scim.schema import (
    ENTERPRISE,
    Attribute,
    find_attribute,
    list_all_attributes,
    remove_schema,
)
from anthropic_proxy.engine.patterns import compile_anchored

_MAX_CHARACTERS = 4_000
_MAX_TERMS = 50
_MAX_DEPTH = 10
_TOKEN = compile_anchored(r'\s*("(?:[^"\\]|\\.)*"|[()\[\]]|[^\s()\[\]"]+)')
_COMPARISONS: Mapping[str, Callable[[str, str], bool]] = {
    "eq": lambda stored, given: stored == given,
    "ne": lambda stored, given: stored != given,
    "co": lambda stored, given: given in stored,
    "sw": lambda stored, given: stored.startswith(given),
    "ew": lambda stored, given: stored.endswith(given),
    "gt": lambda stored, given: stored > given,
    "ge": lambda stored, given: stored >= given,
    "lt": lambda stored, given: stored < given,
    "le": lambda stored, given: stored <= given,
}
_PARTS_OF_TEXT = ("co", "sw", "ew")
"""Operators that compare a time as its text: `sw "2026-11"` is a month."""
_META = (
    *(Attribute(name=name, type="dateTime", case_exact=True) for name in ("created", "lastModified")),
    *(Attribute(name=name, case_exact=True) for name in ("resourceType", "version")),
)
_COMMON = (
    Attribute(name="id", case_exact=True, mutability="readOnly"),
    Attribute(name="meta", type="complex", mutability="readOnly", parts=_META),
    Attribute(name="schemas", multi_valued=True, mutability="readOnly", is_stored=False),
)
Predicate = Callable[[Mapping[str, Any]], bool]


class Equality(Struct, frozen=True):
    """A comparison such as `userName eq "ann"`. `name`: of the attribute, also if its parts `value` are compared."""

    name: str
    value: str


class Filter(Struct, frozen=True):
    matches: Predicate
    equalities: tuple[Equality, ...] = ()
    """Each is necessary for a match, so that an index finds the resources."""
    is_conjunction: bool = False
    """True if the equalities are the whole filter."""
    terms: int = 1
    """Number of its comparisons."""
    reads_links: bool = False
    """True if it compares members or groups, which other tables have."""

    @property
    def equality(self) -> Equality | None:
        """The equality that is the whole filter."""
        return self.equalities[0] if self.is_conjunction and len(self.equalities) == 1 else None


class AttributePath(Struct, frozen=True):
    """Path of a PATCH operation: `active`, `name.givenName`, `emails[type eq "work"].value`."""

    attribute: Attribute
    filter: Filter | None = None
    part: Attribute | None = None


class _Tokens:
    def __init__(self, text: str) -> None:
        if len(text) > _MAX_CHARACTERS:
            raise ScimError(
                f"The filter has {len(text):,} characters; {_MAX_CHARACTERS:,} are allowed.", "invalidFilter"
            )
        self._tokens: list[str] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                raise ScimError(f"The filter cannot be read at {text[position : position + 40]!r}.", "invalidFilter")
            self._tokens.append(match[1])
            position = match.end()
        self._index = 0
        self.terms = 0

    def peek(self) -> str:
        """ "": the end."""
        return self._tokens[self._index] if self._index < len(self._tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self._index += 1
        return token

    def expect(self, token: str) -> None:
        if (found := self.take()) != token:
            raise ScimError(f"The filter has {found[:40]!r} in place of {token!r}.", "invalidFilter")


def decode_filter(text: str, kind: Kind) -> Filter:
    tokens = _Tokens(text)
    found = _decode_or(tokens, (*_COMMON, *list_all_attributes(kind)), kind, 0)
    if rest := tokens.peek():
        raise ScimError(f"The filter has {rest[:40]!r} after its end.", "invalidFilter")
    reads_links = "members" in text.lower() or "groups" in text.lower()
    return structs.replace(found, terms=tokens.terms, reads_links=reads_links)


def decode_path(text: str, kind: Kind) -> AttributePath | None:
    """None: an attribute that is not stored."""
    text = remove_schema(text.strip(), kind)
    name, bracket, rest = text.partition("[")
    within, closed, after = rest.rpartition("]")
    attribute_name, dot, part_name = (name.strip() if bracket else text).partition(".")
    attribute = find_attribute((*_COMMON, *list_all_attributes(kind)), attribute_name)
    part = _find_part(attribute, part_name)
    is_extension = attribute is None and attribute_name.lower().startswith("urn:")
    is_extension |= attribute is not None and attribute.name == ENTERPRISE and bool(part_name) and part is None
    if is_extension or not _are_stored(attribute, part):
        return None
    is_complete = bool(closed) == bool(bracket) and not (bracket and part_name)
    if bracket:
        dot, part_name = after[:1], after[1:]
        part = _find_part(attribute, part_name)
    is_complete &= dot in ("", ".") and bool(part_name) == bool(dot)
    if attribute is None or not is_complete or (part is None and part_name) or (bracket and not attribute.multi_valued):
        raise ScimError(f"The path {text[:80]!r} is not one of this resource.", "invalidPath")
    if not _are_stored(part):
        return None
    found = None
    if bracket:
        tokens = _Tokens(within)
        found = _decode_or(tokens, attribute.parts, kind, 0)
        if tokens.peek():
            raise ScimError(f"The path {text[:80]!r} has a filter that cannot be read.", "invalidFilter")
        found = structs.replace(found, terms=tokens.terms)
    return AttributePath(attribute, found, part)


def _find_part(attribute: Attribute | None, name: str) -> Attribute | None:
    return attribute.find_part(name) if attribute is not None and name else None


def _are_stored(*attributes: Attribute | None) -> bool:
    return all(attribute is None or attribute.is_stored for attribute in attributes)


def _decode_or(tokens: _Tokens, attributes: Sequence[Attribute], kind: Kind, depth: int) -> Filter:
    found = [_decode_and(tokens, attributes, kind, depth)]
    while tokens.peek().lower() == "or":
        tokens.take()
        found.append(_decode_and(tokens, attributes, kind, depth))
    if len(found) == 1:
        return found[0]
    return Filter(lambda resource: any(part.matches(resource) for part in found))


def _decode_and(tokens: _Tokens, attributes: Sequence[Attribute], kind: Kind, depth: int) -> Filter:
    found = [_decode_term(tokens, attributes, kind, depth)]
    while tokens.peek().lower() == "and":
        tokens.take()
        found.append(_decode_term(tokens, attributes, kind, depth))
    if len(found) == 1:
        return found[0]
    equalities = tuple(equality for part in found for equality in part.equalities)
    is_conjunction = all(part.is_conjunction for part in found)
    return Filter(lambda resource: all(part.matches(resource) for part in found), equalities, is_conjunction)


def _decode_term(tokens: _Tokens, attributes: Sequence[Attribute], kind: Kind, depth: int) -> Filter:
    tokens.terms += 1
    if tokens.terms > _MAX_TERMS or depth > _MAX_DEPTH:
        raise ScimError(
            f"The filter is too large: at most {_MAX_TERMS} comparisons and {_MAX_DEPTH} levels are allowed.",
            "invalidFilter",
        )
    first = tokens.take()
    if first.lower() == "not" and tokens.peek() == "(":
        inner = _decode_term(tokens, attributes, kind, depth + 1)
        return Filter(lambda resource: not inner.matches(resource))
    if first == "(":
        inner = _decode_or(tokens, attributes, kind, depth + 1)
        tokens.expect(")")
        return inner
    return _decode_comparison(first, tokens, attributes, kind, depth)


def _decode_comparison(first: str, tokens: _Tokens, attributes: Sequence[Attribute], kind: Kind, depth: int) -> Filter:
    name, _, part_name = remove_schema(first, kind).partition(".")
    attribute = find_attribute(attributes, name)
    part = _find_part(attribute, part_name)
    if attribute is None or (part_name and part is None) or not _are_stored(attribute, part):
        raise ScimError(
            f"The filter has the attribute {first[:40]!r}, which this resource does not have.", "invalidFilter"
        )
    chosen: Predicate | None = None
    if tokens.peek() == "[":
        tokens.take()
        inner = _decode_or(tokens, attribute.parts, kind, depth + 1)
        chosen = inner.matches
        tokens.expect("]")
        if not tokens.peek().startswith("."):
            id_ = inner.equality if inner.equality is not None and inner.equality.name == "value" else None
            equalities = () if id_ is None else (Equality(attribute.name, id_.value),)
            return Filter(
                lambda resource: bool(_list_values(resource, attribute, None, chosen)), equalities, bool(equalities)
            )
        part = _find_part(attribute, (after := tokens.take())[1:])  # emails[type eq "work"].value, as Entra ID sends it
        if part is None or not part.is_stored:
            raise ScimError(
                f"The filter has {after[:40]!r} in place of an attribute of {attribute.name}.", "invalidFilter"
            )
    return _compare(tokens, attribute, part, chosen)


def _compare(tokens: _Tokens, attribute: Attribute, part: Attribute | None, chosen: Predicate | None) -> Filter:
    """`chosen`: which items of the attribute are compared. None: all."""
    leaf = part or attribute.find_part("value") or attribute
    operator = tokens.take().lower()
    if operator == "pr":
        return Filter(lambda resource: bool(_list_values(resource, attribute, part, chosen)))
    compare = _COMPARISONS.get(operator)
    if compare is None:
        raise ScimError(
            f"The filter has the operator {operator[:40]!r}. Use {', '.join((*_COMPARISONS, 'pr'))}.", "invalidFilter"
        )
    if leaf.type == "boolean" and operator not in ("eq", "ne"):  # RFC 7644, section 3.4.2.2
        raise ScimError(
            f"The filter has the operator {operator!r} for {leaf.name}, which is true or false. Use eq, ne, pr.",
            "invalidFilter",
        )
    if operator in _PARTS_OF_TEXT and leaf.type == "dateTime":
        leaf = structs.replace(leaf, type="string")
    given = _decode_value(tokens.take())
    wanted = _normalize(given, leaf)
    if wanted is None:
        raise ScimError(
            f'The filter has the value {given!r:.40}. Use a time such as "2026-12-01T08:00:00Z".', "invalidFilter"
        )
    is_equality = operator == "eq" and isinstance(given, str) and chosen is None
    is_equality &= not attribute.parts or leaf.name == "value"
    equalities = (Equality(attribute.name, str(given)),) if is_equality else ()

    def matches(resource: Mapping[str, Any]) -> bool:
        found = _list_values(resource, attribute, leaf if attribute.parts else None, chosen)
        values = [_normalize(value, leaf) for value in found]
        if operator == "ne":
            return wanted not in values
        return any(value is not None and compare(value, wanted) for value in values)

    return Filter(matches, equalities, bool(equalities))


def _decode_value(token: str) -> object:
    try:
        value = msgspec.json.decode(token.lower() if token.lower() in ("true", "false", "null") else token)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise ScimError(
            f'The filter has the value {token[:40]!r}. Use a text such as "ann".', "invalidFilter"
        ) from None
    if isinstance(value, (list, dict)):
        raise ScimError(f"The filter has the value {token[:40]!r}. Use a text or a number.", "invalidFilter")
    return value


def _normalize(value: object, attribute: Attribute) -> str | None:
    """Return a text that compares as the value does. None: it is no time, and the attribute is one."""
    if isinstance(value, bool) or attribute.type == "boolean":
        return str(value).lower()
    text = str(value)
    if attribute.type == "dateTime":
        return _normalize_time(text)
    return text if attribute.case_exact else text.lower()


@lru_cache(maxsize=16)  # each comparison of a filter needs the times of the same resource
def _normalize_time(text: str) -> str | None:
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError):
        return None


def _list_items(value: object) -> Sequence[Mapping[str, Any]]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, dict)]


def _list_values(
    resource: Mapping[str, Any], attribute: Attribute, part: Attribute | None, chosen: Predicate | None = None
) -> Sequence[object]:
    value = resource.get(attribute.name)
    if attribute.parts:
        items = [item for item in _list_items(value) if chosen is None or chosen(item)]
        return [item[part.name] for item in items if part.name in item] if part is not None else [*items]
    return [] if value is None else [value]
