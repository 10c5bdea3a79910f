"""`Settings`, the decoded settings of the proxy: one field per setting, with its variable and default.

Claude models belong to tiers (haiku, sonnet, …). `SMALL_MODEL` is the backend model for haiku, `BIG_MODEL` for the
other tiers. `Timeouts` are limits of one call to a provider. `Secret` hides a key in logs.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

TIERS = ("haiku", "sonnet", "opus", "fable")
"""Families of Claude models. Settings map each tier in a requested id, such as `claude-opus-5`, to a backend model."""

Fidelity = Literal["best-effort", "strict"]
"""Policy for requests that a backend supports only in part: serve with losses (`best-effort`), or reject (`strict`)."""

_MIN_LENGTH_SHOWN = 16
"""Minimum characters of a secret for showing its last four. A shorter secret is shown as `…`."""


class Secret:
    """A key or other text kept out of logs. `str`, `repr` and formatting show at most its last four characters."""

    __slots__ = ("_value", "origin")

    def __init__(self, value: str, origin: str = "") -> None:
        self._value = value
        self.origin = origin
        """Source of the secret, for messages: `OPENAI_API_KEY in .env, line 1`."""

    def reveal(self) -> str:
        """Return the unredacted text. Log only the `Secret` object."""
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
    """Time limits of a call to a provider, in seconds. The total duration of the call is unlimited."""

    connect_seconds: float = 10.0
    """`UPSTREAM_CONNECT_TIMEOUT`: maximum time to connect to the provider."""
    first_byte_seconds: float = 600.0
    """`UPSTREAM_FIRST_BYTE_TIMEOUT`: maximum time until the reply starts. Reasoning models may need minutes."""
    idle_seconds: float = 300.0
    """`UPSTREAM_IDLE_TIMEOUT`: maximum time between two received pieces of the reply."""


class Settings(Struct, frozen=True, kw_only=True):
    """All settings of the proxy. A reload creates a new object.

    Each field names its variable. `<PROVIDER>` in a variable is `env_prefix` of a provider: OPENAI, GEMINI.
    """

    keys: Mapping[str, Sequence[Secret]] = {}
    """Provider name → API keys for the provider (`OPENAI_API_KEY`, …; separated by commas). Calls use them in turn."""
    base_urls: Mapping[str, str] = {}
    """Provider name → URL that replaces the default base URL, without a trailing slash (`<PROVIDER>_BASE_URL`)."""
    wires: Mapping[str, str] = {}
    """Provider name → wire, the API used to call it: `chat`, `responses` (`<PROVIDER>_WIRE`).

    Absent: the registry entry of the provider selects the wire by model (`auto`).
    """
    extra_models: Mapping[str, Sequence[str]] = {}
    """Provider name → model ids in addition to the built-in list of the provider (`<PROVIDER>_KNOWN_MODELS`)."""
    preferred_provider: str | None = None
    """`PREFERRED_PROVIDER`: provider of tiers and of model ids without a prefix.

    None: the first provider with a key or project, else Ollama if it replies, else the demo.
    """
    big_model: str | None = None
    """`BIG_MODEL`: backend model for sonnet, opus and fable requests. None: the default of the preferred provider."""
    middle_model: str | None = None
    """`MIDDLE_MODEL`: backend model for sonnet requests, instead of `BIG_MODEL`. None: `BIG_MODEL` applies."""
    small_model: str | None = None
    """`SMALL_MODEL`: backend model for haiku requests. None: the default of the preferred provider."""
    tier_models: Mapping[str, str] = {}
    """Tier (`opus`) → backend model, overriding BIG_MODEL, MIDDLE_MODEL and SMALL_MODEL (`MODEL_<TIER>`)."""
    fallbacks: Mapping[str, Sequence[str]] = {}
    """Tier → backend models tried in order if the first model fails (`FALLBACK_<TIER>`)."""
    use_vertex_auth: bool = False
    """`USE_VERTEX_AUTH`: True if Gemini models are called at Vertex AI with Application Default Credentials."""
    vertex_project: str | None = None
    """`VERTEX_PROJECT`, `VERTEX_PROJECT_ID`: id of the Google Cloud project. None: the project of the credentials."""
    vertex_location: str = "us-central1"
    """`VERTEX_LOCATION`: region of Vertex AI, or `global`."""
    google_credentials_file: str | None = None
    """`GOOGLE_APPLICATION_CREDENTIALS`: path of the credentials file for Vertex AI. None: the path of gcloud."""
    ollama_context_length: int | None = None
    """`OLLAMA_CONTEXT_LENGTH`: context window in tokens, sent to Ollama as `num_ctx`.

    None: `num_ctx` of the Modelfile, else the window of the model, at most 65,536.
    """
    ollama_keep_alive: str | None = None
    """`OLLAMA_KEEP_ALIVE`: time that Ollama keeps a model in memory after a reply, in seconds (`300`) or as `10m`.

    `-1`: no limit. None: the default of the Ollama server.
    """
    proxy_api_keys: Sequence[Secret] = ()
    """`PROXY_API_KEY`: keys that clients send to the proxy. Empty: only loopback clients are served."""
    allow_unauthenticated: bool = False
    """`ALLOW_UNAUTHENTICATED`: True if clients at any address are served when `proxy_api_keys` is empty."""
    allowed_hosts: Sequence[str] = ()
    """`ALLOWED_HOSTS`: names accepted in the `Host` header of a client request, besides loopback names; lower case."""
    serve_demo: bool = False
    """`SERVE_DEMO`: True if the built-in demo model `demo/…` is served beside other providers.

    False: only if the demo is the preferred provider.
    """
    host: str = "127.0.0.1"
    """`HOST`: listen address. Loopback by default, so that other machines cannot use the provider keys."""
    port: int = 8082
    """`PORT`: listen port."""
    timeouts: Timeouts = Timeouts()
    """`UPSTREAM_…_TIMEOUT`. `UPSTREAM_TIMEOUT` is the default of `first_byte_seconds` and `idle_seconds`."""
    fidelity: Fidelity = "best-effort"
    """`FIDELITY`: `strict` rejects a request that the backend can serve only with losses; `best-effort` serves it."""
    tier_fidelities: Mapping[str, Fidelity] = {}
    """Tier → policy that overrides `fidelity` for requests of the tier (`FIDELITY_<TIER>`)."""
    check_context_window: bool = False
    """`CHECK_WINDOW`: True if a request above the context window of the model is rejected before an upstream call."""
    search_url: str | None = None
    """`SEARCH_URL`: URL of the search service for web searches run by the proxy. None: the proxy runs none."""
    fetch_urls: bool = False
    """`FETCH_URLS`: True if the proxy may run the web fetch tool: download a web page for the model."""
    max_upstream_calls: int | None = None
    """`MAX_UPSTREAM_CALLS`: maximum concurrent calls to providers, in all workers together. None: no limit."""
    stop_timeout_seconds: float = 25.0
    """`STOP_TIMEOUT`: seconds that running replies may continue after the stop signal.

    The default is below the 30 s after which Kubernetes kills a process.
    """
    log_format: Literal["auto", "plain", "json"] = "auto"
    """`LOG_FORMAT`: `plain` text or one JSON object per line. `auto`: colored text on a terminal, else plain text."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """`LOG_LEVEL`: `warning` and `error` omit successful client requests. `debug` adds probes of `/` and `/health`."""
    color: bool | None = None
    """True if the log is always colored, False if never (`FORCE_COLOR`, `NO_COLOR`, `TERM=dumb`).

    None: colored on a terminal only.
    """
    http_proxies: Mapping[str, Secret] = {}
    """Scheme of a provider URL (`https`) → URL of the HTTP proxy for calls to it (`HTTPS_PROXY`, else `ALL_PROXY`)."""
    no_proxy_hosts: str = ""
    """`NO_PROXY`: comma-separated hosts that are called without an HTTP proxy. "": none."""
    other_secrets: Sequence[Secret] = ()
    """Secrets of other programs, recognized by variable names such as `…_TOKEN`. They are redacted in the log."""
    litellm_variables: Mapping[str, Secret] = {}
    """Variable → text, for variables of `.env` that LiteLLM may read and that are not in the environment.

    Holds variables that are not settings of the proxy, the first key of each provider, and base URLs of providers.
    """
    origins: Mapping[str, str] = {}
    """Variable → source of its value, for messages: `environment`, `.env line 4`."""
    raw_values: Mapping[str, Secret] = {}
    """Variable → its text before decoding, to find the variables changed by a reload. Includes keys."""
    warnings: Sequence[str] = ()
    """Warning texts to log at start, for example about ignored placeholders or removed quotes."""

    def reveal_proxy_keys(self) -> Sequence[str]:
        """Return the unredacted keys accepted from clients (`PROXY_API_KEY`)."""
        return [key.reveal() for key in self.proxy_api_keys]

    def reveal_all_secrets(self) -> Sequence[str]:
        """Return the unredacted text of every provider key, proxy key and other secret, so that logs can hide them."""
        own = (key for keys in self.keys.values() for key in keys)
        return [key.reveal() for key in (*own, *self.proxy_api_keys, *self.other_secrets)]
