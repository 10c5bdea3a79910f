"""The settings: one field each, with variable, default and reason."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

TIERS = ("haiku", "sonnet", "opus", "fable")
"""Families of Claude models. Each maps to a model of its own."""

Fidelity = Literal["best-effort", "strict"]
"""Policy for requests that a backend supports only in part."""

_MIN_LENGTH_SHOWN = 16
"""Minimum length for showing the last four characters of a secret."""


class Secret:
    """A key that does not print: `str`, `repr` and formatting show at most its last four characters."""

    __slots__ = ("_value", "origin")

    def __init__(self, value: str, origin: str = "") -> None:
        self._value = value
        self.origin = origin
        """Source of the secret, for messages: `OPENAI_API_KEY in .env, line 1`."""

    def reveal(self) -> str:
        """Return the secret itself. Call this only to send it to its provider."""
        return self._value

    def __repr__(self) -> str:
        return f"…{self._value[-4:]}" if len(self._value) >= _MIN_LENGTH_SHOWN else "…"

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
    """Time limits of an upstream call, in seconds. Its total duration is unlimited."""

    connect_seconds: float = 10.0
    """`UPSTREAM_CONNECT_TIMEOUT`."""
    first_byte_seconds: float = 600.0
    """`UPSTREAM_FIRST_BYTE_TIMEOUT`: reasoning models need minutes before their first output."""
    idle_seconds: float = 300.0
    """`UPSTREAM_IDLE_TIMEOUT`: maximum time between two reads of a reply."""


class Settings(Struct, frozen=True, kw_only=True):
    """Settings of the process, built at start and at each reload.

    `<PROVIDER>` in a variable is OPENAI, GEMINI, VERTEX, OLLAMA, GROQ, MOONSHOT, XAI or ANTHROPIC.
    """

    keys: Mapping[str, Sequence[Secret]] = {}
    """Provider name → its keys, used in rotation (`OPENAI_API_KEY`, …; separated by commas)."""
    base_urls: Mapping[str, str] = {}
    """Provider name → base URL that replaces the default; without a trailing slash (`<PROVIDER>_BASE_URL`)."""
    wires: Mapping[str, str] = {}
    """Provider name → wire (`OPENAI_WIRE`, `<PROVIDER>_WIRE`). Absent: the rules of the provider decide (`auto`)."""
    extra_models: Mapping[str, Sequence[str]] = {}
    """Provider name → additional known models (`<PROVIDER>_KNOWN_MODELS`)."""
    preferred_provider: str | None = None
    """`PREFERRED_PROVIDER`; None: the first configured provider."""
    big_model: str | None = None
    """`BIG_MODEL`: model for sonnet, opus and fable."""
    middle_model: str | None = None
    """`MIDDLE_MODEL`: model for sonnet, instead of `BIG_MODEL`."""
    small_model: str | None = None
    """`SMALL_MODEL`: model for haiku."""
    tier_models: Mapping[str, str] = {}
    """`opus`, `sonnet`, `haiku`, `fable` → model that overrides the others for that tier (`MODEL_<TIER>`)."""
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
    """`OLLAMA_CONTEXT_LENGTH`, in tokens, sent as `num_ctx`; None: the window of the model, up to 65,536."""
    ollama_keep_alive: str | None = None
    """`OLLAMA_KEEP_ALIVE`: how long Ollama keeps a model in memory after a reply, in seconds or as `10m`; `-1`: for
    ever; None: Ollama decides."""
    proxy_api_keys: Sequence[Secret] = ()
    """`PROXY_API_KEY`: keys that clients authenticate with. Empty: only loopback clients are served."""
    allow_unauthenticated: bool = False
    """`ALLOW_UNAUTHENTICATED`: serve other addresses without a proxy key too."""
    allowed_hosts: Sequence[str] = ()
    """`ALLOWED_HOSTS`: names accepted in `Host` besides loopback names; lower case."""
    serve_demo: bool = False
    """`SERVE_DEMO`: serve `demo/…` beside configured providers; false: only if the demo is the preferred provider."""
    host: str = "127.0.0.1"
    """`HOST`: loopback by default, so that other machines cannot use the provider keys."""
    port: int = 8082
    """`PORT`."""
    timeouts: Timeouts = Timeouts()
    """`UPSTREAM_…_TIMEOUT`; `UPSTREAM_TIMEOUT` is the default of the last two."""
    fidelity: Fidelity = "best-effort"
    """`FIDELITY`: `strict` rejects a request that a backend can serve only with losses."""
    tier_fidelities: Mapping[str, Fidelity] = {}
    """Tier → fidelity of its requests (`FIDELITY_<TIER>`)."""
    check_window: bool = False
    """`CHECK_WINDOW`: reject a request above the context window before it is sent."""
    search_url: str | None = None
    """`SEARCH_URL`: search service for web searches of the proxy."""
    fetch_urls: bool = False
    """`FETCH_URLS`: True if the proxy may fetch web pages for the model."""
    max_upstream_calls: int | None = None
    """`MAX_UPSTREAM_CALLS`: maximum number of concurrent upstream calls. None: no limit."""
    stop_timeout: float = 25.0
    """`STOP_TIMEOUT`: time limit of running replies after the stop signal, in seconds; less than the 30 s of
    Kubernetes."""
    log_format: Literal["auto", "plain", "json"] = "auto"
    """`LOG_FORMAT`: `auto` is colored on a terminal and plain elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """`LOG_LEVEL`: `warning` and `error` omit successful requests, `debug` adds probes of `/` and `/health`."""
    color: bool | None = None
    """`NO_COLOR`, `FORCE_COLOR` and `TERM=dumb` of the environment; None: colors on a terminal only."""
    proxies: Mapping[str, Secret] = {}
    """Scheme of a base URL → HTTP proxy (`HTTP_PROXY`, `HTTPS_PROXY`, else `ALL_PROXY` of the environment)."""
    no_proxy: str = ""
    """`NO_PROXY` of the environment: comma-separated hosts that are reached without an HTTP proxy."""
    other_secrets: Sequence[Secret] = ()
    """Other secrets of the environment and `.env`, found by name. LiteLLM may use them and errors may quote them."""
    other_variables: Mapping[str, Secret] = {}
    """Other variables of `.env` that the environment lacks, with the first key of each provider. LiteLLM reads the
    keys, addresses and regions of its providers from the environment."""
    origins: Mapping[str, str] = {}
    """Variable → source of its value: `environment`, `.env line 4`."""
    raw_values: Mapping[str, Secret] = {}
    """Variable → its unparsed text; some are secrets."""
    warnings: Sequence[str] = ()
    """Warnings to log at start: ignored placeholders, removed quotes."""

    def reveal_proxy_keys(self) -> Sequence[str]:
        """Return the keys that clients present."""
        return [key.reveal() for key in self.proxy_api_keys]

    def reveal_keys(self) -> Sequence[str]:
        """Return all known secrets, for redaction."""
        own = (key for keys in self.keys.values() for key in keys)
        return [key.reveal() for key in (*own, *self.proxy_api_keys, *self.other_secrets)]
