"""`load_meanings`: text about each setting for the page Settings, from the comments of `.env.example`."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct


class _Meanings(Struct, frozen=True):
    """Content of the file `setting_meanings.json` of this package."""

    meanings: Mapping[str, str]


@cache
def load_meanings() -> Mapping[str, str]:
    """Return name of a setting → text about its meaning. A setting without a comment in `.env.example` is left out."""
    text = files("anthropic_proxy.dashboard").joinpath("setting_meanings.json").read_bytes()
    return msgspec.json.decode(text, type=_Meanings).meanings
