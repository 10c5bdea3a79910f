"""What can be set: one field a setting, with its variable, its default and the reason."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

TIERS = ("haiku", "sonnet", "opus", "fable")
"""The families of Claude models, each of which maps to a model of its own."""

Fidelity = Literal["best-effort", "strict"]
"""Whether a request may reach a backend that cannot do all of it."""

_SHOWN_FROM = 12
"""Characters from which on a secret shows its last four: of a shorter one they would be too much."""


class Secret:
    """A key that does not print: `str`, `repr` and formatting show its vendor's prefix and at most its last four."""

    __slots__ = ("_value", "origin")

    def __init__(self, value: str, origin: str = "") -> None:
        self._value = value
        self.origin = origin
        """Where it was set, for messages: `OPENAI_API_KEY in .env, line 1`."""

    def reveal(self) -> str:
        """Return the secret itself; call it only where it leaves for its owner."""
        return self._value

    def __repr__(self) -> str:
        if len(self._value) < _SHOWN_FROM:
            return "…"
        ends = [self._value.find(mark) + 1 for mark in "-_" if 0 < self._value.find(mark) <= 3]
        return f"{self._value[: min(ends, default=0)]}…{self._value[-4:]}"

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, specification: str) -> str:
        return format(repr(self), specification)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")


class Timeouts(Struct, frozen=True):
    """Limits on the provider, in seconds; there is none on the whole."""

    connect: float = 10.0
    """`UPSTREAM_CONNECT_TIMEOUT`."""
    first_byte: float = 600.0
    """`UPSTREAM_FIRST_BYTE_TIMEOUT`: reasoning models think for minutes before they say anything."""
    idle: float = 300.0
    """`UPSTREAM_IDLE_TIMEOUT`: silence in the middle of an answer."""


class Settings(Struct, frozen=True, kw_only=True):
    """What the process runs with; built once at start, and anew at a reload.

    `<PROVIDER>` in a variable is OPENAI, GEMINI, VERTEX, OLLAMA, GROQ, MOONSHOT, XAI or ANTHROPIC.
    """

    keys: Mapping[str, Sequence[Secret]] = {}
    """Provider name → its keys, used in turn (`OPENAI_API_KEY`, …; several by comma)."""
    base_urls: Mapping[str, str] = {}
    """Provider name → address that overrides the row's; without a trailing slash (`<PROVIDER>_BASE_URL`)."""
    wires: Mapping[str, str] = {}
    """Provider name → wire asked for (`OPENAI_WIRE`, `<PROVIDER>_WIRE`); absent: the row's rules decide (`auto`)."""
    extra_models: Mapping[str, Sequence[str]] = {}
    """Provider name → models that join its known ones (`<PROVIDER>_KNOWN_MODELS`)."""
    preferred_provider: str | None = None
    """`PREFERRED_PROVIDER`; None: the first that is configured."""
    big_model: str | None = None
    """`BIG_MODEL`: what sonnet, opus and fable map to."""
    middle_model: str | None = None
    """`MIDDLE_MODEL`: what sonnet maps to instead."""
    small_model: str | None = None
    """`SMALL_MODEL`: what haiku maps to."""
    tier_models: Mapping[str, str] = {}
    """`opus`, `sonnet`, `haiku`, `fable` → the model that wins for that tier (`MODEL_<TIER>`)."""
    fallbacks: Mapping[str, Sequence[str]] = {}
    """Tier → models tried in order after the first (`FALLBACK_<TIER>`)."""
    use_vertex_auth: bool = False
    """`USE_VERTEX_AUTH`: Google's models go to Vertex AI with Application Default Credentials."""
    vertex_project: str | None = None
    """`VERTEX_PROJECT`, `VERTEX_PROJECT_ID`."""
    vertex_location: str = "us-central1"
    """`VERTEX_LOCATION`: a region, or `global`."""
    google_credentials_file: str | None = None
    """`GOOGLE_APPLICATION_CREDENTIALS`: path of a file for google-auth."""
    ollama_context_length: int | None = None
    """`OLLAMA_CONTEXT_LENGTH`, in tokens, sent as `num_ctx`; None: what the model has, up to 65,536."""
    ollama_keep_alive: str | None = None
    """`OLLAMA_KEEP_ALIVE`: how long Ollama keeps a model in memory after a reply, in seconds or as `10m`; `-1`: for
    ever; None: Ollama decides."""
    proxy_api_keys: Sequence[Secret] = ()
    """`PROXY_API_KEY`: any of them lets a client in; none: only loopback callers are served."""
    allow_unauthenticated: bool = False
    """`ALLOW_UNAUTHENTICATED`: without a proxy key, serve other addresses too."""
    allowed_hosts: Sequence[str] = ()
    """`ALLOWED_HOSTS`: names that a `Host` header may say besides loopback ones; lower case."""
    host: str = "127.0.0.1"
    """`HOST`: loopback, so that nobody else on the network spends the user's money."""
    port: int = 8082
    """`PORT`."""
    timeouts: Timeouts = Timeouts()
    """`UPSTREAM_…_TIMEOUT`; `UPSTREAM_TIMEOUT` sets the last two where they are not set themselves."""
    fidelity: Fidelity = "best-effort"
    """`FIDELITY`: `strict` refuses a request that a backend could only serve with losses."""
    tier_fidelities: Mapping[str, Fidelity] = {}
    """Tier → the same for requests that name it (`FIDELITY_<TIER>`)."""
    check_window: bool = False
    """`CHECK_WINDOW`: refuse a request that does not fit before it is sent."""
    search_url: str | None = None
    """`SEARCH_URL`: the search service for web searches that the proxy runs itself."""
    fetch_urls: bool = False
    """`FETCH_URLS`: whether the proxy may fetch pages for the model."""
    max_upstream_calls: int | None = None
    """`MAX_UPSTREAM_CALLS`: calls under way at once; None: no limit."""
    stop_timeout: float = 25.0
    """`STOP_TIMEOUT`: seconds that running replies may go on after the signal to stop; less than the 30 s that
    Kubernetes waits before it kills."""
    log_format: Literal["auto", "plain", "json"] = "auto"
    """`LOG_FORMAT`: `auto` colours on a terminal and is plain elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """`LOG_LEVEL`: `warning` and `error` leave out what went well, `debug` adds probes of `/` and `/health`."""
    colours: bool | None = None
    """`NO_COLOR`, `FORCE_COLOR` and `TERM=dumb` of the environment; None: a terminal gets colours."""
    proxies: Mapping[str, Secret] = {}
    """Scheme of a provider's address → the proxy on the way there (`HTTP_PROXY`, `HTTPS_PROXY`, else `ALL_PROXY` of
    the environment)."""
    unproxied: str = ""
    """`NO_PROXY` of the environment: hosts by comma that are reached without one."""
    foreign_keys: Sequence[Secret] = ()
    """Secrets, by their names, that an engine may find itself in the environment or `.env`; errors may repeat them."""
    other_variables: Mapping[str, Secret] = {}
    """What else `.env` has that the environment has not, each of a provider's keys once: LiteLLM looks for its
    providers' keys, addresses and regions in the environment, under names of its own."""
    origins: Mapping[str, str] = {}
    """Variable → where its value was found, in words: `environment`, `.env line 4`."""
    given: Mapping[str, Secret] = {}
    """Variable → its text as it was found; some of them are secrets."""
    warnings: Sequence[str] = ()
    """What start-up must say aloud: placeholders taken for unset, quotes stripped."""

    def reveal_keys(self) -> Sequence[str]:
        """Return every key there is, for whoever must not tell one."""
        own = (key for keys in self.keys.values() for key in keys)
        return [key.reveal() for key in (*own, *self.proxy_api_keys, *self.foreign_keys)]
