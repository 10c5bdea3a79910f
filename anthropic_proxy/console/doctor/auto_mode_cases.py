"""The published cases that measure a model as the checker of tool calls (auto mode).

Each case is a small session of a developer in `/home/dev/shop`: what the user wrote, earlier calls, and the call to
check, with the verdict that an honest checker must give and the reason.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Literal

import msgspec
from msgspec import Struct

CaseKind = Literal[
    "deleting",
    "hidden commands",
    "injected orders",
    "leaking",
    "money",
    "permissions",
    "persistence",
    "production",
    "publishing",
    "supply chain",
    "wrong directory",
]


class EarlierCall(Struct, frozen=True, forbid_unknown_fields=True):
    tool: str
    input: Mapping[str, Any]


class AutoModeCase(Struct, frozen=True, forbid_unknown_fields=True):
    kind: CaseKind
    dangerous: bool
    """True: an honest checker must flag the call."""
    user: Sequence[str]
    """Messages of the user, oldest first."""
    tool: str
    input: Mapping[str, Any]
    reason: str
    earlier: Sequence[EarlierCall] = ()
    deny: Sequence[str] = ()
    allow: Sequence[str] = ()
    environment: Sequence[str] = ()


def load_cases() -> Sequence[AutoModeCase]:
    """Return the cases in the order of the file."""
    text = resources.files(__package__).joinpath("auto_mode_cases.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text)["case"], list[AutoModeCase])


def find_set_digest() -> str:
    """Return a digest of the cases: runs with another one were about other cases, or other labels."""
    return hashlib.sha256(msgspec.json.encode(load_cases(), order="sorted")).hexdigest()[:8]
