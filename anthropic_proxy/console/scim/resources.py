"""Resources as identity providers send and change them: validation, PATCH (RFC 7644, section 3.5.2), and projection.

A resource is a dictionary with the attributes of `schema`, in their spelling, without `id` and `meta`.
"""

from typing import Any

from anthropic_proxy.console.scim.errors import ScimError
from anthropic_proxy.console.scim.filters import AttributePath, decode_path
from anthropic_proxy.console.scim.paths import Kind
from anthropic_proxy.console.scim.schema import (
    ENTERPRISE,
    ENTERPRISE_SCHEMA,
    Attribute,
    find_attribute,
    list_all_attributes,
    remove_schema,
)

Resource = dict[str, Any]
MAX_TEXT_CHARACTERS = 1_000
_MAX_OPERATIONS = 1_000
_MAX_COMPARISONS = 200_000
"""Work of one PATCH, which is counted before it is done: half a second, whatever its paths and values are. A unit is
the comparison of an item of a multi-valued attribute, or a value of one that the body has."""
_COMPARISONS_PER_PATH = 5
_CHARACTERS_PER_COMPARISON = 4
"""Work for the decoding of a path, and for these characters of it, as a number of comparisons."""
_MAX_NAMES = 200
"""Names in `attributes` or `excludedAttributes`. The schemas have fewer."""
_ALWAYS_RETURNED = ("schemas", "id")


def decode_resource(kind: Kind, given: object) -> Resource:
    """Return the stored attributes of the body of a request. Raises `ScimError`."""
    if not isinstance(given, dict):
        raise ScimError("The body is no object.", "invalidSyntax")
    resource: Resource = {}
    by_name = {remove_schema(str(name), kind).lower(): value for name, value in given.items()}
    for attribute in list_all_attributes(kind):
        if attribute.mutability == "readOnly" or not attribute.is_stored:
            continue
        value = _decode_value(attribute, by_name.get(attribute.name.lower()))
        if value is not None:
            resource[attribute.name] = value
    require_complete(kind, resource)
    return resource


def require_complete(kind: Kind, resource: Resource) -> None:
    for attribute in list_all_attributes(kind):
        if attribute.required and not str(resource.get(attribute.name, "")).strip():
            raise ScimError(f"{attribute.name} is required.")


def _decode_value(attribute: Attribute, value: object) -> Any:
    """None: the value is null or empty, which means that the attribute has none."""
    if value is None or value == []:
        return None
    if not attribute.multi_valued:
        return _decode_item(attribute, value)
    items = value if isinstance(value, list) else [value]
    if len(items) > attribute.max_values:
        raise ScimError(f"{attribute.name} has {len(items):,} values; {attribute.max_values:,} are allowed.", "tooMany")
    decoded = [_decode_item(attribute, item) for item in items]
    return _keep_one_primary([item for item in decoded if item], 0) or None


def _decode_item(attribute: Attribute, value: object) -> Any:
    if attribute.type == "complex":
        if isinstance(value, str) and attribute.find_part("value") is not None:
            value = {"value": value}
        if not isinstance(value, dict):
            raise ScimError(f"{attribute.name} is {_show(value)}. Use an object.")
        by_name = {str(name).lower(): inner for name, inner in value.items()}
        parts = {}
        for part in attribute.parts:
            if not part.is_stored or part.mutability == "readOnly" or part.type == "reference":
                continue
            if (decoded := _decode_value(part, by_name.get(part.name.lower()))) is not None:
                parts[part.name] = decoded
        return parts or None
    if attribute.type == "boolean":
        if isinstance(value, str) and value.lower() in ("true", "false"):  # Microsoft Entra ID sends "False"
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise ScimError(f"{attribute.name} is {_show(value)}. Use true or false.")
        return value
    if not isinstance(value, str):
        raise ScimError(f"{attribute.name} is {_show(value)}. Use a text.")
    if len(value) > MAX_TEXT_CHARACTERS:
        raise ScimError(f"{attribute.name} has {len(value):,} characters; {MAX_TEXT_CHARACTERS:,} are allowed.")
    if any(
        character < " " or "\x7f" <= character <= "\x9f" or "\ud800" <= character <= "\udfff" for character in value
    ):
        raise ScimError(f"{attribute.name} contains a character that no text has.")
    return value


def _show(value: object) -> str:
    return repr(value)[:60]


def _keep_one_primary(items: list[Any], newest: int) -> list[Any]:
    """Of several primary values, the one at or after the index `newest` is kept (RFC 7643, section 2.4)."""
    primary = [number for number, item in enumerate(items) if isinstance(item, dict) and item.get("primary")]
    kept = next((number for number in primary if number >= newest), None)
    for number in primary if kept is not None else ():
        if number != kept:
            items[number] = {**items[number], "primary": False}
    return items


class Patch:
    """Applies the operations of one request to a resource."""

    def __init__(self, kind: Kind, resource: Resource) -> None:
        self._kind = kind
        self.resource = dict(resource)
        self._comparisons = 0
        self._by_value: dict[str, dict[str, Any]] | None = None
        """Members by their id, so that an operation about one does not read all."""

    def apply(self, body: object) -> Resource:
        by_name = {str(name).lower(): value for name, value in body.items()} if isinstance(body, dict) else {}
        operations = by_name.get("operations")
        if not isinstance(operations, list) or not operations:
            raise ScimError("The body has no Operations.", "invalidSyntax")
        if len(operations) > _MAX_OPERATIONS:
            raise ScimError(f"{len(operations):,} operations; {_MAX_OPERATIONS:,} are allowed.", "tooMany")
        for operation in operations:
            self._apply_operation(operation)
        self._store_members()
        require_complete(self._kind, self.resource)
        return self.resource

    def _apply_operation(self, operation: object) -> None:
        if not isinstance(operation, dict):
            raise ScimError("An operation is no object.", "invalidSyntax")
        by_name = {str(name).lower(): value for name, value in operation.items()}
        name = str(by_name.get("op", "")).lower()
        if name not in ("add", "replace", "remove"):
            raise ScimError(f"op is {_show(by_name.get('op'))}. Use add, replace or remove.", "invalidSyntax")
        path, value = by_name.get("path"), by_name.get("value")
        if path:
            if not isinstance(path, str):
                raise ScimError(f"path is {_show(path)}. Use a text.", "invalidPath")
            self._change(name, path, value)
        elif name == "remove":
            raise ScimError("An operation remove has no path.", "noTarget")
        elif not isinstance(value, dict):
            raise ScimError(f"value is {_show(value)}. Without a path, use an object.")
        else:
            for key, inner in value.items():
                self._change(name, str(key), inner, is_key=True)

    def _change(self, name: str, text: str, value: object, *, is_key: bool = False) -> None:
        if is_key and text.lower().startswith("urn:") and isinstance(value, dict):
            for key, inner in value.items():
                self._change(name, f"{text}:{key}", inner)
            return
        self._count(_COMPARISONS_PER_PATH + len(text) // _CHARACTERS_PER_COMPARISON)
        path = decode_path(text, self._kind)
        if path is None:
            return
        if path.attribute.multi_valued and isinstance(value, list):
            self._count(len(value))
        if is_key and path.filter is not None:  # a value without a path also adds what is missing
            name = "add"
        if path.attribute.mutability == "readOnly":
            if is_key:
                return
            raise ScimError(f"{path.attribute.name} is read-only.", "mutability")
        if path.part is not None and path.part.mutability != "readWrite":
            raise ScimError(f"{path.attribute.name}.{path.part.name} cannot be changed.", "mutability")
        if path.attribute.name == "members":
            self._change_members(name, path, value)
        elif path.attribute.multi_valued:
            self._change_items(name, path, value)
        else:
            self._change_single(name, path, value)

    def _change_single(self, name: str, path: AttributePath, value: object) -> None:
        attribute, part = path.attribute, path.part
        target = part or attribute
        decoded = None if name == "remove" else _decode_value(target, value)
        if part is not None:
            parts = {key: inner for key, inner in self.resource.get(attribute.name, {}).items() if key != part.name}
            decoded = parts if decoded is None else {**parts, part.name: decoded}
        elif attribute.parts and decoded is not None:  # parts that are left out stay (RFC 7644, section 3.5.2.3)
            decoded = {**self.resource.get(attribute.name, {}), **decoded}
        self._set(attribute, decoded)

    def _change_items(self, name: str, path: AttributePath, value: object) -> None:
        attribute, part = path.attribute, path.part
        items: list[dict[str, Any]] = list(self.resource.get(attribute.name, ()))
        if path.filter is None and part is None:
            given: list[dict[str, Any]] = _decode_value(attribute, value) or []
            self._count(len(given) * len(items))
            if name == "remove":
                removed = [other.get("value") for other in given]
                items = [item for item in items if value is not None and item.get("value") not in removed]
            elif name == "replace":
                items = given
            else:
                new = [item for item in given if item not in items]
                items = _keep_one_primary([*items, *new], len(items) if new else 0)
            if len(items) > attribute.max_values:
                raise ScimError(
                    f"{attribute.name} has {len(items):,} values; {attribute.max_values:,} are allowed.", "tooMany"
                )
            self._set(attribute, items)
            return
        self._count(len(items) * (path.filter.terms if path.filter is not None else 1))
        chosen = [number for number, item in enumerate(items) if path.filter is None or path.filter.matches(item)]
        if not chosen and name != "remove":
            if name == "replace" or path.filter is None or path.filter.equality is None:
                raise ScimError(f"No value of {attribute.name} matches the path.", "noTarget")
            equality = path.filter.equality
            items.append({equality.name: equality.value})
            chosen = [len(items) - 1]
        for number in chosen:
            items[number] = self._change_item(name, path, items[number], value)
        self._set(attribute, _keep_one_primary([item for item in items if item], min(chosen, default=0)))

    def _change_item(self, name: str, path: AttributePath, item: dict[str, Any], value: object) -> dict[str, Any]:
        if path.part is None:
            if name == "remove":
                return {}
            given: dict[str, Any] = _decode_item(path.attribute, value) or {}
            return {**item, **given}
        kept = {key: inner for key, inner in item.items() if key != path.part.name}
        decoded = None if name == "remove" else _decode_value(path.part, value)
        return kept if decoded is None else {**kept, path.part.name: decoded}

    def _count(self, number: int) -> None:
        self._comparisons += number
        if self._comparisons > _MAX_COMPARISONS:
            raise ScimError("The operations compare too many values. Send them in several requests.", "tooMany")

    def _change_members(self, name: str, path: AttributePath, value: object) -> None:
        if self._by_value is None:
            self._by_value = {item["value"]: item for item in self.resource.get("members", ()) if "value" in item}
        members = self._by_value
        if path.filter is not None:
            if name != "remove":
                raise ScimError("Members are added and removed, and not changed.", "mutability")
            equality = path.filter.equality
            if equality is not None and equality.name == "value":
                members.pop(equality.value, None)
                return
            self._count(len(members) * path.filter.terms)
            for member in [key for key, item in members.items() if path.filter.matches(item)]:
                del members[member]
            return
        given = [item["value"] for item in _decode_value(path.attribute, value) or () if "value" in item]
        if name == "replace" or (name == "remove" and value is None):
            members.clear()
        for member in given:
            if name == "remove":
                members.pop(member, None)
            else:
                members[member] = {"value": member}
        if len(members) > path.attribute.max_values:
            raise ScimError(f"A group has at most {path.attribute.max_values:,} members.", "tooMany")

    def _store_members(self) -> None:
        if self._by_value is not None:
            self._set(_MEMBERS, list(self._by_value.values()))

    def _set(self, attribute: Attribute, value: Any) -> None:
        if value is None or value in ({}, []):
            self.resource.pop(attribute.name, None)
        else:
            self.resource[attribute.name] = value


def _find_members() -> Attribute:
    found = find_attribute(list_all_attributes("Group"), "members")
    assert found is not None
    return found


_MEMBERS = _find_members()


def list_names(text: str, kind: Kind) -> frozenset[str]:
    """`text`: value of `attributes` or `excludedAttributes`."""
    if (number := text.count(",") + 1) > _MAX_NAMES:
        raise ScimError(f"{number:,} names of attributes; {_MAX_NAMES} are allowed.", "tooMany")
    return frozenset(remove_schema(name.strip(), kind).lower() for name in text.split(",") if name.strip())


def project(document: Resource, wanted: frozenset[str], excluded: frozenset[str]) -> Resource:
    """Return the attributes that a request asks for (RFC 7644, section 3.9), as a response has them. Empty: all."""
    chosen = {
        name: project_parts(value, name.lower(), wanted, excluded)
        for name, value in document.items()
        if name in _ALWAYS_RETURNED or is_returned(name.lower(), wanted, excluded)
    }
    if (extension := chosen.pop(ENTERPRISE, None)) is not None:
        chosen |= {"schemas": [*chosen["schemas"], ENTERPRISE_SCHEMA], ENTERPRISE_SCHEMA: extension}
    return chosen


def is_returned(name: str, wanted: frozenset[str], excluded: frozenset[str]) -> bool:
    """`name`: in lower case."""
    return any(other.partition(".")[0] == name for other in wanted) if wanted else name not in excluded


def project_parts(value: Any, name: str, wanted: frozenset[str], excluded: frozenset[str]) -> Any:
    """Return the parts of the attribute `name` that a request asks for."""
    parts = {other.partition(".")[2] for other in wanted or excluded if other.startswith(f"{name}.")}
    return _filter_parts(value, parts, keeps=bool(wanted)) if parts and name not in wanted else value


def _filter_parts(value: Any, parts: set[str], *, keeps: bool) -> Any:
    if isinstance(value, list):
        return [_filter_parts(item, parts, keeps=keeps) for item in value]
    if isinstance(value, dict):
        return {key: inner for key, inner in value.items() if (key.lower() in parts) == keeps}
    return value
