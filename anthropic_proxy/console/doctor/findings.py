"""Results of the doctor, which examines models of providers by probes: requests that each test one feature.

A backend is one model of one provider. A dialect is a set of fields that describe how a server deviates from its API.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field

from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from anthropic_proxy.engine.routing.targets import Target


class ProbeTotals(Struct):
    requests: int = 0
    """Number of upstream requests."""
    input_tokens: int = 0
    output_tokens: int = 0


State = Literal["works", "emulated", "unsupported", "untested"]
"""Support of a feature. `emulated`: the proxy does the work of the backend. `untested`: not applicable, or skipped
after a failure."""

FailureKind = Literal["unreachable", "key", "address", "server", "model", "quota", "package", "request"]
"""Kind of failure that ends the probes of a backend.

`unreachable`: there is no response. `address`: the response is not from the API. `server`: the server fails.
`package`: an optional Python package is not installed. `request`: the server rejects a minimal request.
"""


class Outcome(Struct, kw_only=True):
    """Result of one probe."""

    state: State
    detail: str = ""
    """Short text for the table: `sequential`, `HTTP 400`. "": none."""
    reason: str = ""
    """Complete text with the cause, without secrets. "": none."""


EvidenceKind = Literal["automatic", "required", "improvement"]
"""Effect of a changed dialect field.

`required`: requests fail without it. `improvement`: only a feature is missing without it. `automatic`: the proxy
makes the change itself after a rejection.
"""


class Evidence(Struct, frozen=True, kw_only=True):
    """Reason for the value of one dialect field: the request that failed, and the value with which it succeeded."""

    kind: EvidenceKind
    field: str
    """Name of the dialect field."""
    value: Any
    """Value with which the request succeeded."""
    previous: Any
    """Value with which the request failed."""
    probe: str
    """Name of the probe that led to the change."""
    sent: str
    """Fragment of the rejected request that the new value changes: `"max_completion_tokens": 1024`."""
    status: int
    """HTTP status of the rejection. 0: the server accepted the request without the expected effect."""
    error: str
    """Beginning of the server's error message, or the missing effect, without secrets."""


class Failure(Struct, frozen=True, kw_only=True):
    """Failure that prevents all requests to a backend."""

    kind: FailureKind
    status: int
    """HTTP status of the server's response. Without a response: status of the proxy's error. 0: no API key is set."""
    message: str
    """Error message of the proxy, without secrets."""
    cause: str = ""
    """The message without its remedy."""
    error_code: str = ""
    """Entry of the error catalog. "": none."""
    concerned_field: str = ""
    """`UpstreamError.concerned_field`."""
    proposal: str = ""
    """Setting or command that the error message proposes: `OPENAI_BASE_URL=http://localhost:8000/v1`. "": none."""

    @property
    def concerns_model(self) -> bool:
        """False: no model of the provider can be called."""
        return self.kind in ("model", "request")


class Backend(Struct, frozen=True, kw_only=True, eq=False):
    """One model of one provider that the doctor examines."""

    name: str
    """Prefix of the provider: `openai`."""
    target: Target
    """Provider, model, wire and base URL to call."""
    tiers: Sequence[str] = ()
    """Claude tiers (haiku, sonnet, opus, fable) that the settings map to the model."""
    routes: Mapping[str, Sequence[str]] = {}
    """Name of a route of the configuration file → its models of this provider, without prefix."""
    searches_dialect: bool = False
    """True if the dialect of the server is unknown, so that its fields are probed."""

    @property
    def prefixed_id(self) -> str:
        return f"{self.name}/{self.target.model}"

    @property
    def is_demo(self) -> bool:
        """True for the built-in demo, which has no model to examine."""
        return self.target.provider.transport == "demo"


class Diagnosis(Struct, kw_only=True):
    """All results of the probes of one backend."""

    backend: Backend
    outcomes: dict[str, Outcome] = {}
    """Name of the probe → its result. Absent: not run yet."""
    problem: Failure | None = None
    """Failure that prevents all requests to the backend. None: requests are possible."""
    wire: str = ""
    """Name of the wire that the server accepts, if the settings select another one. "": the selected wire works."""
    seconds: float | None = None
    """Seconds from the first probe's request to the end of its reply. None: no reply."""
    models: Sequence[str] | None = None
    """Ids in the model list of the server. None: the server has no list."""
    context_window: int | None = None
    """Context window in tokens, as stated by the server. None: not stated."""
    max_output: int | None = None
    """Output limit in tokens, as stated by the server. None: not stated."""
    capabilities: ModelCapabilities | None = None
    """Those with which the proxy serves the model once the observed facts are stored. None: the probes have not ended,
    or there was a problem."""
    limits_source: str = ""
    """Text of the server that states the limits, without secrets. "": none."""
    efforts: Sequence[str] = ()
    """Effort levels that the server accepts. Empty: none, or unknown."""
    evidence: list[Evidence] = field(default_factory=list)
    """Observations that decided dialect fields, one for each changed field."""
    quirks: dict[str, str] = field(default_factory=dict)
    """Name of a deviation for which no dialect field is needed → its description."""
    target: Target | None = None
    """Target with the dialect and the wire that the probes found. None: the probes have not ended."""
    dialect: dict[str, Any] = field(default_factory=dict)
    """Found fields of the dialect, without those with the default value of the wire."""
    totals: ProbeTotals = field(default_factory=ProbeTotals)
    is_complete: bool = False
    """True if all probes have ended."""

    @property
    def found_target(self) -> Target:
        """Target with the API and dialect that the probes found, or those of the settings until the probes end."""
        return self.target or self.backend.target

    @property
    def shows_dialect(self) -> bool:
        """True if the doctor has searched the dialect, and no problem has prevented that."""
        return self.problem is None and (self.backend.searches_dialect or bool(self.wire))

    def state_of(self, probe_name: str) -> State:
        """`untested`: the probe has not run, or its result was unclear, such as a temporary error."""
        outcome = self.outcomes.get(probe_name)
        return outcome.state if outcome else "untested"


def find_context_window(diagnosis: Diagnosis) -> int | None:
    """Return the tokens that a conversation can reach, as the proxy uses them with what was observed. None: unknown.

    With some models this is less than the context window, which includes the reply.
    """
    facts = _find_used_capabilities(diagnosis)
    return facts.effective_max_input if facts.known else None


def _find_used_capabilities(diagnosis: Diagnosis) -> ModelCapabilities:
    return diagnosis.capabilities or diagnosis.backend.target.capabilities


def lacks_context_window(diagnosis: Diagnosis) -> bool:
    """Return True if neither the probes nor the list of a server have a context window, which a user may know."""
    provider = diagnosis.found_target.provider
    is_asked = provider.transport == "http" and not provider.uses_installed_models
    return is_asked and diagnosis.problem is None and find_context_window(diagnosis) is None


def find_max_output(diagnosis: Diagnosis) -> int | None:
    """Return the tokens of one reply, as the proxy uses them with what was observed. None: unknown."""
    return _find_used_capabilities(diagnosis).effective_max_output
