"""Reasons for differences between LiteLLM and the proxy, of `reasons.toml`: each explains a class of differences."""

import re
import tomllib
from pathlib import Path

import msgspec

from tests.differential.comparing import Difference


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One class of differences. `place`, `theirs`, `ours` and `wire` are patterns that match the whole of one."""

    title: str
    place: str
    litellm: str
    """Behavior of LiteLLM."""
    we: str
    why: str
    theirs: str = ".*"
    ours: str = ".*"
    wire: str = ".*"

    def explains(self, wire: str, difference: Difference) -> bool:
        pairs = zip((self.wire, self.place, self.theirs, self.ours), (wire, *difference), strict=True)
        return all(re.fullmatch(pattern, text, re.DOTALL) for pattern, text in pairs)


REASONS = msgspec.convert(
    tomllib.loads(Path(__file__).with_name("reasons.toml").read_text("utf-8"))["reasons"], tuple[Reason, ...]
)
