"""What has changed between two readings of the settings, and digests with which instances compare their settings.

Both name variables and tables of the configuration file, as `Settings.raw_values` does. A value of a secret, or of a
table that may have one, is in neither.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.gateway.settings.fields import Settings
from anthropic_proxy.gateway.settings.managed_settings import format_group_setting
from anthropic_proxy.gateway.settings.provider_tables import format_price_setting
from anthropic_proxy.gateway.settings.table import list_secret_variables
from anthropic_proxy.gateway.settings.table_fields import list_table_fields
from anthropic_proxy.gateway.settings.values import is_secret_variable, mask_setting
from anthropic_proxy.secrets import Secret

SettingChanges = Mapping[str, tuple[str | None, str | None]]
"""Name → old and new value; None: none. Values that are not shown are `set`, and `changed` in place of the new one."""
SettingStates = Mapping[str, tuple[str, str | None]]
"""Name → digest of the value, and the value as people read it. None: it is not shown."""
_OF_EACH_INSTANCE = frozenset({"HOST", "PORT"})
"""Variables that are different on each instance."""
_ROUNDS = 10_000
"""Rounds of the digest of a secret, which make guesses at a short one expensive: about 5 ms each."""
_SET = "set"
_CHANGED = "changed"
_Parts = Callable[[Settings], Mapping[str, object]]


def _list_managed(settings: Settings) -> Mapping[str, object]:
    tables = settings.managed_settings
    return {f"{format_group_setting(group)} {name}": value for group in tables for name, value in tables[group].items()}


_PARTS: Mapping[str, _Parts] = {
    "managed_settings": _list_managed,
    "inspectors": lambda settings: {f"inspector {rule.table.name}": rule for rule in settings.inspectors},
    "routes": lambda settings: {f"route {route.name}": _read_fields(route) for route in settings.routes},
    "prices": lambda settings: {format_price_setting(name): price for name, price in settings.prices.items()},
    "token_issuers": lambda settings: {f"[token_issuers.{issuer.name}]": issuer for issuer in settings.token_issuers},
    "sign_in": lambda settings: (
        {}
        if settings.sign_in is None
        else {f"[sign_in.groups.{group.name}]": group for group in settings.sign_in.groups}
    ),
}
"""Table in `Settings.raw_values` → its parts, each with its name for people."""


def _read_fields(route: Any) -> Mapping[str, object]:
    """Return the fields of a route without its place in the file."""
    return {name: getattr(route, name) for name in route.__struct_fields__ if name != "origin"}


def list_changes(before: Settings, after: Settings) -> SettingChanges:
    """Return what has changed, in the order of the old settings and then of the new ones."""
    secret = _SecretNames(after)
    changes: dict[str, tuple[str | None, str | None]] = {}
    for name in dict.fromkeys((*before.raw_values, *after.raw_values)):
        old = before.raw_values.get(name)
        new = after.raw_values.get(name)
        if old == new:
            continue
        if name in _PARTS and (parts := _compare_parts(_PARTS[name](before), _PARTS[name](after))):
            changes |= parts
        elif name in secret:
            changes[name] = None if old is None else _SET, None if new is None else _SET if old is None else _CHANGED
        else:
            changes[name] = _show(name, old), _show(name, new)
    return changes


def digest_values(settings: Settings) -> Mapping[str, str]:
    """Return name → short digest, for all names that instances have in common."""
    secret = _SecretNames(settings)
    return {
        name: digest_value(name, value.reveal(), is_secret=name in secret)
        for name, value in sorted(settings.raw_values.items())
        if name not in _OF_EACH_INSTANCE
    }


def show_values(settings: Settings) -> Mapping[str, str | None]:
    """Return name → text as people read it, for the same names. None: a secret, or a table that may have one."""
    secret = _SecretNames(settings)
    return {
        name: None if name in secret else _show(name, value)
        for name, value in sorted(settings.raw_values.items())
        if name not in _OF_EACH_INSTANCE
    }


def list_changed_states(before: SettingStates, after: SettingStates) -> SettingChanges:
    """Return what has changed between two starts, of which only digests and shown texts are known."""
    changes: dict[str, tuple[str | None, str | None]] = {}
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old is None or new is None or old[0] != new[0]:
            changed = _SET if old is None or old[1] is not None else _CHANGED
            changes[name] = (
                None if old is None else _SET if old[1] is None else old[1],
                None if new is None else changed if new[1] is None else new[1],
            )
    return changes


class _SecretNames:
    def __init__(self, settings: Settings) -> None:
        self._variables = frozenset(list_secret_variables(find_registry(settings)))
        self._shown = {field.name for field in list_table_fields()}

    def __contains__(self, name: str) -> bool:
        """Return True for a variable that may contain a secret, and for a table with other than plain fields."""
        is_shown = name.isupper() or name in self._shown
        return name in self._variables or is_secret_variable(name) or not is_shown


def _compare_parts(before: Mapping[str, object], after: Mapping[str, object]) -> SettingChanges:
    return {
        name: (_SET if name in before else None, None if name not in after else _CHANGED if name in before else _SET)
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    }


def _show(name: str, value: Secret | None) -> str | None:
    return None if value is None else mask_setting(name, value.reveal())


def digest_value(name: str, text: str, *, is_secret: bool) -> str:
    """Return a short digest that differs for equal values of two names. That of a secret needs about 5 ms."""
    content = text.encode("utf-8", "surrogatepass")
    salt = name.encode()
    if is_secret:
        return hashlib.pbkdf2_hmac("sha256", content, salt, _ROUNDS).hex()[:12]
    return hashlib.sha256(salt + b"\0" + content).hexdigest()[:12]
