"""What a provider's row holds."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from anthropic_proxy.wire.contract import Wire

UNKNOWN_PROJECT = "{project}"
"""Stands in an address for a project that only the credentials know."""


class Speech(Struct, frozen=True, kw_only=True):
    """One language that a provider understands, and how."""

    wire: Wire
    dialect: Any
    """The wire's `Dialect` for all models of this provider."""
    model_rules: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Pattern of model ids (`fnmatch`) → dialect fields that differ; every rule that matches counts, in order."""
    settings: Mapping[str, str] = {}
    """Dialect field → the field of `Settings` that it has the value of, where the user set one."""
    url_endings: Sequence[tuple[str, str]] = ()
    """How an address ends → how it ends where this language is spoken: `/v1` → `/anthropic`; the first that fits."""
    own_address_only: bool = False
    """Whether only servers of the user's speak it, not the row's own address."""


class Server(Struct, frozen=True, kw_only=True):
    """A server of somebody else's that users put in a provider's place by its `…_BASE_URL`."""

    name: str
    """For documentation and tests: `deepseek`; once in a row."""
    addresses: Sequence[str]
    """Patterns (`fnmatch`) of host, port and path, in lower case: `api.deepseek.com/*`. A path ends with a slash."""
    speeches: Mapping[str, Speech] = {}
    """Wire name → how it speaks it; one that is absent is spoken as the provider itself does."""
    facts: Mapping[str, Any] = {}
    """Fields of `ModelFacts` that hold for its models where the catalogue does not know them."""
    key_header: str | None = None
    """None: as the provider's."""
    key_scheme: str = ""
    docs: str = ""


class Retired(Struct, frozen=True, kw_only=True):
    """A model that its provider no longer serves, or will not from a day on that it has told."""

    since: str
    """The day, as `2026-08-16`."""
    successor: str
    """The provider's own advice, without prefix."""


class Provider(Struct, frozen=True, kw_only=True):
    """One company or server that we call."""

    name: str
    """As `PREFERRED_PROVIDER` says it: `google`."""
    prefix: str
    """As a model id says it, without the slash: `gemini`."""
    other_prefixes: Collection[str] = ()
    """Prefixes that are its own too and stay part of the name."""
    title: str
    """As people call it: `Google Gemini`."""
    speeches: Mapping[str, Speech]
    """Wire name (`chat`, `responses`, `gemini`, `ollama`, `messages`) → how it is spoken here, the usual one first."""
    servers: Sequence[Server] = ()
    """Whose address the user may set instead; the first that matches. None matches: as at the row's own address."""
    wire_rules: Sequence[tuple[str, str]] = ()
    """Pattern of model ids → wire name; the first that matches; none: the first of `speeches`."""
    base_url: str
    regional_urls: Sequence[tuple[str, str]] = ()
    """Pattern of locations → address there, `{location}` standing for it; the first that matches, before `base_url`."""
    url_version: str = ""
    """Path that the user's own address gets where it has none: `/v1`."""
    url_resource: str = ""
    """Path below any address that says whose account it is: `/projects/{project}/locations/{location}`."""
    stem: str = ""
    """How its variables begin: `GEMINI` of `GEMINI_BASE_URL`, `GEMINI_KNOWN_MODELS`; empty: it has none."""
    base_url_variable: str | None = None
    key_variable: str | None = None
    key_header: str = "authorization"
    key_scheme: str = "Bearer "
    takes_client_key: bool = False
    """Whether the credential that our client sends is meant for it, where neither it nor this proxy has a key set."""
    key_source: Literal["settings", "google"] = "settings"
    """`google`: tokens of Application Default Credentials take the place of keys."""
    key_needed: Literal["always", "own_address", "never"] = "always"
    """`own_address`: only at the row's own address; a server of the user's may ask for none."""
    choosable: bool = True
    """Whether messages name it among the providers to prefer."""
    big_model: str | None = None
    """What sonnet, opus and fable map to, without prefix; None: untouched, or the user's own."""
    small_model: str | None = None
    keeps_tiers: bool = False
    """Whether it serves Claude models itself, so that ids stay as they are and BIG_MODEL, SMALL_MODEL say nothing."""
    runs_what_is_pulled: bool = False
    """Whether its defaults hold only if the user has them; else the largest and the smallest that there are."""
    families: Sequence[str] = ()
    """Patterns of names that are its own though they stand in no list."""
    lends_strangers: bool = False
    """Whether a BIG_MODEL or SMALL_MODEL that nobody knows goes to OpenAI if its key is set, as users are used to."""
    known_models: Sequence[str] = ()
    refused_models: Mapping[str, str] = {}
    """Known models that cannot chat → why (`turns sound into text`)."""
    retired_models: Mapping[str, Retired] = {}
    """Models that users may have set, or have by default, and that are gone or going."""
    way: Literal["http", "demo", "litellm"] = "http"
    docs: str = ""

    @property
    def serves_tiers(self) -> bool:
        """Whether it has models for Claude's tiers where the user names none."""
        return self.keeps_tiers or (self.big_model is not None and self.small_model is not None)
