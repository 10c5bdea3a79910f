"""Providers as a table of rows. What a provider does otherwise than its wire's vendor is a field of the row's dialect."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from anthropic_proxy.wire.contract import Wire


class Speech(Struct, frozen=True, kw_only=True):
    """One language that a provider understands, and how."""

    wire: Wire
    dialect: Any
    """The wire's `Dialect` for all models of this provider."""
    model_rules: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Pattern of model ids (`fnmatch`) → dialect fields that differ; the router merges every rule that matches, in order."""


class Provider(Struct, frozen=True, kw_only=True):
    """One company or server that we call."""

    name: str
    """As `PREFERRED_PROVIDER` says it: `google`."""
    prefix: str
    """As a model id says it, without the slash: `gemini`."""
    title: str
    """As people call it: `Google Gemini`."""
    speeches: Mapping[str, Speech]
    """Wire name (`chat`, `responses`, `gemini`, `ollama`, `messages`) → how this provider speaks it; empty: not yet."""
    wire_rules: Sequence[tuple[str, str]] = ()
    """Pattern of model ids → wire name; the first that matches; none: the first of `speeches`."""
    base_url: str
    base_url_variable: str | None = None
    key_variable: str | None = None
    key_header: str = "authorization"
    key_scheme: str = "Bearer "
    big_model: str | None = None
    """What sonnet, opus and fable map to, without prefix; None: untouched, or the user's own."""
    small_model: str | None = None
    known_models: Sequence[str] = ()
    refused_models: Mapping[str, str] = {}
    """Known models that cannot chat → why (`turns sound into text`)."""
    way: Literal["http", "demo", "litellm"] = "http"
    docs: str = ""


PROVIDERS: tuple[Provider, ...] = ()
