"""What the engine asks for and reports: policies, inspectors, receipts, recorders, traces and a store of values.

The server and its plugins implement these interfaces (`anthropic_proxy.plugins` shows them to other packages). The
engine works without any: every list of them may be empty.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Protocol

from msgspec import Struct, field

from anthropic_proxy.engine.messages.deltas import BilledUsage, TokenCounts
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.engine.messages.purpose import RequestKind
from anthropic_proxy.engine.trace_context import TraceContext
from anthropic_proxy.engine.wires.bound_requests import ServerName
from anthropic_proxy.engine.wires.purposes import AdmittedPurpose
from anthropic_proxy.errors import ProxyBusy

RecordPoint = Literal["client request", "upstream request", "client response"]
"""Kind of recorded bytes: body of a client request, body of a request to a provider, or a piece of the response body
for the client."""


class Recorder(Protocol):
    """Receives the content of requests to `POST /v1/messages` and of their responses.

    API keys in the content are not redacted, so a recorder must redact them.
    """

    def record(self, request_id: str, point: RecordPoint, data: bytes) -> None:
        """Record bytes of one request: a request body, or a piece of the response.

        Must not block, because it runs on the event loop.
        """
        # a recorder that raises an exception for a piece of a response receives no more pieces of it


class StoreUnavailable(ProxyBusy):
    """Error: Redis is unavailable, and `REDIS_FAILURE=closed` rejects requests with limits. The client may retry."""

    code = "redis-unavailable"

    def __init__(self) -> None:
        super().__init__(
            "The proxy cannot check limits, because its Redis server is unavailable. Try again in a moment.",
            retry_after=2,
        )


class ValueStore(Protocol):
    """Storage for texts that expire, such as what was learned of a model. Methods may raise `StoreUnavailable`."""

    async def get(self, key: str) -> str | None:
        """Return the text that is stored under `key`. None: it is missing or has expired."""

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        """Store the text `value` under `key` for `lifetime_seconds`. A previous value is replaced."""

    async def put_if_absent(self, key: str, value: str, lifetime_seconds: float) -> str:
        """Store the text `value` as `put` does, unless there is one under `key`. Return the stored text: all who call
        this at the same time get the same one.
        """

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        """Add `amount` to the number that is stored under `key`, and return the sum.

        A missing number starts at 0, and is deleted `lifetime_seconds` after the first addition.
        """

    async def delete(self, key: str) -> None:
        """Delete the value and the counter that are stored under `key`. A missing one is ignored."""


class SessionModel(Struct, frozen=True):
    """Model that a person has chosen for a running session, in place of the one that its client requests."""

    model: str
    """As in a request: `openai/gpt-5.5`, `haiku`."""
    replaced: str
    """Model id that the client requests for the conversation. Requests for other models stay as they are, so that a
    later choice in the client counts."""


class SessionModels(Protocol):
    """Models that people have chosen for their sessions. The exchange asks only if `is_empty` is False."""

    is_empty: bool

    async def find(self, client: "Client", session: str) -> SessionModel | None:
        """Return the choice for a session of this client. None: there is none."""


WITH_OWN_LIMITS = frozenset(("member", "team admin"))
"""Roles of people, and of virtual keys: the limits that they are told are those of the key and its team. Clients with
other roles have the limits of the provider."""


class Client(Struct, frozen=True):
    """The client of a request, after authentication."""

    name: str = "local"
    """Label for the log and metrics: `local`, or the label of the client's key. Never the key itself."""
    credential_forwardable: bool = False
    """True if the proxy requires no key. The key in the client request is then meant for the provider, and is
    forwarded."""
    role: Literal["owner", "member", "team admin", "admin", "monitor", "provisioner"] = "owner"
    """Access of the client.

    `member`: a virtual key, only for the API below `/v1/` and its own recent requests; or a person (`sign_in`), who
    also reads the own usage and manages the own keys. `team admin`: a person who manages the keys of the own teams.
    `admin`: an admin key, for all URL paths but `/v1/`. `monitor`: a monitor key, which only reads `/metrics` and the
    paths below `/api/`. `provisioner`: a token of SCIM, only for the paths below `/scim/`. `owner`: any other client,
    for all paths except those of the administration.
    """
    key_id: str = ""
    """Id of the virtual key: `key_…`. "": another client."""
    owner: str = ""
    """Owner of the virtual key. "": none, or another client."""
    person: str = ""
    """Id of the key of the person that the virtual key is, belongs to or names as its owner. "": none, or another
    client."""
    address: str = ""
    """IP address of a client without a key. "": it has a key, or the address is unknown."""
    is_restricted: bool = False
    """True if the key, its person or its team may use only certain models, providers or routes, or has a budget in
    dollars. Only fields of the Messages API are then relayed, because others may name models that nobody knows."""
    has_foreign_texts: bool = False
    """True if the key's text (secret) was given out before the key got this owner: others than the owner use it."""
    team: str = ""
    """Team of the virtual key. "": none, or another client."""
    cost_center: str = ""
    """Cost center of the virtual key, to which a company books its costs. "": none, or another client."""
    groups: tuple[str, ...] = ()
    """Groups of a signed-in person at the identity provider, as far as the settings name them. Empty: none, or another
    client."""
    sign_in: str = ""
    """Id of the sign-in of a person from Claude Code: `sign_…`. "": another client."""
    address_trusted: bool = False
    """True if the client is on this machine, or if no client needs a key. Only a trusted client sees the provider
    setup."""

    @property
    def id(self) -> str:
        """Name under which something is kept for this client only."""
        return self.key_id or self.name

    def is_sender(self, other: "Client") -> bool:
        """Return True if this client has sent the requests of `other`, as it was then: the key has not been given to
        another owner since, nor was its text.
        """
        is_same_use = (self.owner.lower(), self.has_foreign_texts) == (other.owner.lower(), other.has_foreign_texts)
        return self.key_id == other.key_id and (is_same_use or bool(self.sign_in and other.sign_in))

    @property
    def payer(self) -> str:
        """Name of the owner of a request, who has turns at shared workers, and for whom documents, states and words of
        the proxy are kept: the person of the key or its owner, else the key, or the address of a client without a key.
        """
        if self.person:
            return f"person {self.person}"
        if self.owner and not self.has_foreign_texts:
            return f"owner {self.owner}"
        return f"address {self.address}" if self.address else f"key {self.id}"

    def scope_session(self, session: str) -> str:
        """Return a name of the session that no other client has. Session ids are texts, which anybody can send."""
        return f"{self.id} {session}" if session else ""

    def name_learner(self, session: str) -> str:
        """Return the name under which it is kept that a request was refused for a reason that it may have caused: that
        of the owner, who may have several keys, or of the session in a proxy without keys, where all clients have one
        name. `session`: "": none.
        """
        if self.credential_forwardable:
            return self.scope_session(session) or self.id
        return self.id if self.address else self.payer

    @property
    def administers(self) -> bool:
        """False: the client is one of several people or programs, and cannot change the proxy."""
        return self.role not in WITH_OWN_LIMITS


class AdmissionTarget(Struct, frozen=True, kw_only=True):
    """A provider and model that may serve the request."""

    prefix: str
    """Prefix of the provider: `gemini`."""
    model: str
    """Model id at the provider, without a prefix."""
    max_output_tokens: int
    """Maximum output tokens of this request at the model."""
    service_tier: str = ""
    """Service tier that the client requests and that costs more: `fast`. "": none."""
    max_searches: int = 0
    """Maximum number of web searches by the provider: `max_uses` of the search tools of the request. A tool without it
    counts as five."""
    region: str = ""
    """Region that the client requires (`inference_geo`), which may cost more: `us`. "": none."""
    field: str = ""
    """Field of the request that names the model: `tools.0.model`, `fallbacks.1.model`. "": routes and settings have
    chosen it."""
    max_calls: int = 1
    """Maximum number of calls of the model. A tool without `max_uses` counts as three."""
    named_models: Sequence["AdmissionTarget"] = ()
    """Models that the provider may call in addition, because the request names them: advisors and fallbacks. Empty if
    the fields that name them are not sent to this provider."""


class FurtherCall(Struct, frozen=True, kw_only=True):
    """A call to a provider for a client request whose earlier calls were billed."""

    target: AdmissionTarget
    """The provider and model to call."""
    body_bytes: int
    """Size of the request. 0: unknown."""
    estimate_input_tokens: Callable[[], int]
    """Returns the estimated input tokens. It reads the whole request, so call it only if the number is needed."""
    receipt: "Receipt"
    """Record of the client request so far."""


AdmitFurtherCall = Callable[[FurtherCall], Awaitable[None]]
"""Function that a policy adds to `AdmissionRequest.further_calls`. It raises `LimitReached` or `PermissionDenied` to
reject the call."""


class AdmissionRequest(Struct, frozen=True, kw_only=True):
    """Facts about a client request from which a policy decides to admit or reject it."""

    client: Client
    """Client that sent the request."""
    purpose: AdmittedPurpose = "message"
    """What the request is for. `auto_mode_check`, `confirmation`, `image_description`: the proxy asks a model because
    of the request `parent`."""
    model: str
    """Model id in the client request."""
    normalized_model: str = ""
    """Model id without the alias `claude-<prefix>/` and the suffix `[1m]`: `openai/gpt-4.1`. Routes compare this id."""
    mapped_model: str = ""
    """`normalized_model` without a prefix that the model mapping ignores: `claude-haiku-4-5` for
    `anthropic/claude-haiku-4-5`."""
    body_bytes: int
    """Size of the client request body."""
    route: str = ""
    """Name of the matching route of the configuration file. "": no route matches, so the model mapping chose the
    targets."""
    request_id: str = ""
    """Id of the request in the response header `request-id`."""
    has_reply: bool = True
    """True if the request produces a reply of a model. False: a token count, which has limits of its own, or a request
    for a batch, a file or a skill."""
    is_limit_query: bool = False
    """True if the client only asks for the headers with its limits, so that no provider is called."""
    targets: Sequence[AdmissionTarget] = ()
    """Models that may serve the request: the first choice, then its fallbacks."""
    estimate_input_tokens: Callable[[], int] = lambda: 0
    """Returns the estimated input tokens. It reads the whole request, so call it only if the number is needed."""
    parent: str = ""
    """Id of the client request to which a check of the proxy belongs. Its tokens and costs count, but it is no further
    request of the client. "": a request of a client."""
    servers: set[ServerName] = field(default_factory=set)
    """Servers beside the providers that the request may lead to: the search service, and `web` for pages and files. A
    policy removes those that the client may not use. The proxy then goes on without them."""
    response_headers: dict[str, str] = field(default_factory=dict)
    """Headers that a policy adds to the response, also to an error response. Names are in lower case."""
    further_calls: list[AdmitFurtherCall] = field(default_factory=list)
    """Functions that a policy adds. The proxy calls each of them before a further call to a provider for the same
    request: after tools that the proxy runs, to continue a split reply, or after a billed call that failed; and before
    the call of a model that replaces a retired one. If one rejects the call, the reply ends with what it has, and the
    stop reason `pause_turn`."""


BlockMark = tuple[str, str, float, int]
"""Block or end of a reply: kind, name of the called tool, time in seconds since the epoch, characters before it.

Kinds are `text`, `thinking`, `tool call`, and `server tool` for any other block. "" is the end of the reply. A block
ends where the next one begins.
"""


class UpstreamAttempt(BilledUsage, kw_only=True, omit_defaults=True):
    """Facts about one call to a provider, which is part of a `Receipt`. It has no message content.

    The counts of a failed attempt are those that the provider reported.
    """

    provider: str
    """Name of the provider."""
    model: str
    """Model id at the provider, without a prefix."""
    host: str = ""
    """Host name or address of the provider. "": the provider has no URL."""
    port: int = 0
    """Port of the provider. 0: the provider has no URL."""
    offset_seconds: float
    """Seconds from the start of the client request to the start of this attempt."""
    duration_seconds: float = 0.0
    """Seconds from the start of the attempt to its failure, or to the last byte of its part of the reply."""
    status: int = 0
    """HTTP status of the provider's response. 0: no response."""
    error_type: str = ""
    """Type of the failure in Anthropic's format: `rate_limit_error`. "": the attempt did not fail."""
    error: str = ""
    """Error message of the failure, with API keys masked. "": the attempt did not fail."""
    span_id: str = ""
    """Span id sent to the provider in `traceparent`. "": traces are off."""
    max_tokens: int = 0
    """Output limit that was sent. 0: none, or no message was requested."""


class PrefixChange(Struct):
    """A prompt that did not begin like the one before it. The provider could not use its cache behind the change."""

    kind: str
    """`tools`, `system`, `messages` or `settings`."""
    part: str
    """First part that differs, for people: `tool 3 (WebFetch)`, `system text`, `message 12 (user)`, `effort`."""
    share: float
    """Share of the prompt behind the change that the provider had read before."""
    tokens: int = 0
    """About as many input tokens were read again. 0: the provider has not counted the input."""
    is_first: bool = True
    """True for the first change of a conversation, which is logged."""


PLAIN_FORM = "plain form: "
"""Beginning of the adaptations in `Receipt.adaptations` that are parts of `Receipt.plain_form`."""
NEGOTIATED = "negotiated"
"""Outcome of a request that asked whether something is available, and was told that it is not. Nothing failed."""


CheckVerdict = Literal["not_flagged", "flagged", "unavailable", "harmless"]
"""Result of the check of a tool call. `unavailable`: there is no verdict, so the client checks the call. `harmless`:
the table of harmless calls has it, so no model was asked, and the client's own rule decides."""
CheckFailure = Literal[
    "timeout",
    "refusal",
    "unreadable",
    "too large",
    "hidden text",
    "disagreement",
    "cancelled",
    "not allowed",
    "error",
]
"""Why there is no verdict. `hidden text`: the call has a redacted text that matters, which only the client gets.
`cancelled`: the reply ended before, such as when the client leaves. `not allowed`: the rules of the request allow no
checking model."""
CheckKind = Literal["model", "rule", "provider", CheckFailure]
"""Who gave a verdict: the checking model, the table of harmless calls, or the provider of the reply. Or why there is
none."""


class CallCheck(Struct, frozen=True, omit_defaults=True):
    """Check of one tool call of a reply (auto mode)."""

    call: str
    """Id of the tool call."""
    tool: str
    """Name of the tool, as the client knows it."""
    verdict: CheckVerdict
    """Result of the check."""
    reason: str = ""
    """Explanation for the user of a flagged call, or why there is no verdict. "": none."""
    rule: str = ""
    """The row of the table of harmless calls, or the rule that the checking model names for a flagged call. "": none,
    also for a call that the model did not flag: it may quote the call, and is stored."""
    request: str = ""
    """Id of the request to the checking model. "": no model was asked."""
    confirmation: str = ""
    """Id of the request to the second model, which must agree. "": none was asked."""
    kind: CheckKind = "model"
    """Who gave the verdict, or why there is none."""
    probability: float | None = None
    """Probability that the model gives for `flagged`, from 0 to 1. None: it gave a verdict only."""


PassageKind = Literal["system", "user", "assistant", "thinking", "tool_call", "tool_result", "tool_description"]
"""Place of a passage. `tool_call`: a text within the arguments of a call. A file that is sent as text belongs to the
message or the tool result that has it."""
InspectedPart = Literal["request", "reply"]


class Passage(Struct, frozen=True, gc=False):
    """One text of a request or a reply."""

    text: str
    """The text, without the escapes of JSON. Earlier inspectors may have replaced parts of it."""
    kind: PassageKind
    """Place of the text."""
    name: str = ""
    """Name of the tool, for `tool_call` and `tool_description`. "": another kind."""


class InspectedTexts(Struct, frozen=True, kw_only=True):
    """Texts that an inspector judges, with facts about their request."""

    part: InspectedPart
    """`request`: all texts of a request. `reply`: one text of a reply, or all texts of a tool call."""
    passages: Sequence[Passage]
    """The texts in their order."""
    client: Client
    """Client that sent the request."""
    request_id: str
    """Id of the request in the response header `request-id`."""
    model: str
    """Model id in the client request."""


class Redaction(Struct, frozen=True):
    """A part of a passage that is replaced. Those of one passage must not overlap."""

    passage: int
    """Index of the passage."""
    start: int
    """First character of the part."""
    end: int
    """Character behind the part."""
    kind: str
    """What was found, for records: `card number`. At most 40 characters; never the text itself."""
    replacement: str | None = None
    """Text in its place. None: in a request, a placeholder that becomes the original text again in the reply; in a
    reply, the kind in brackets."""


class Refusal(Struct, frozen=True):
    """Decision that a request must not be sent, or the rest of a reply must not be shown."""

    kind: str
    """Why, for records: `prompt attack`. At most 40 characters."""
    reason: str
    """Sentence for the user."""
    is_of_operator: bool = False
    """True: the reason has only words of the settings, so it is stored as it is. Otherwise the words that it has of the
    inspected texts are not stored."""


class InspectorScope(Struct, frozen=True, kw_only=True):
    """What an inspector reads, and its limits."""

    name: str
    """Name for records, messages and metrics."""
    requests: bool = True
    """True if it reads requests."""
    replies: bool = False
    """True if it reads replies."""
    tool_descriptions: bool = False
    """True if the texts of a request include the descriptions of its tools."""
    holds_blocks: bool = True
    """True if each text of a reply is held back until it is complete. False: only as far as `find_open_end` says."""
    timeout_seconds: float = 2.0
    """Maximum seconds of one call."""
    limits_itself: bool = False
    """True if `inspect` itself raises `TimeoutError` after these seconds. The time in which it waits for a thread that
    others use does not count then."""
    max_characters: int = 4_000_000
    """Maximum number of characters of one call. More count as a failure."""
    fails_open: bool = False
    """True if the texts pass after a failure of the inspector. False: the request is rejected."""


class Inspector(Protocol):
    """Reads the texts of requests before they leave, and those of replies before the client receives them."""

    @property
    def scope(self) -> InspectorScope:
        """What the inspector reads. It is read at the start of each request."""

    async def inspect(self, texts: InspectedTexts) -> Refusal | Sequence[Redaction]:
        """Judge the texts. An empty list: they pass unchanged.

        Any exception is a failure of the inspector, which `InspectorScope.fails_open` decides about.
        """

    def find_open_end(self, text: str) -> int:
        """Return the place in an incomplete text of a reply from which on its end may become a part of a redaction.

        Called only if `InspectorScope.holds_blocks` is False.
        """


InspectionDecision = Literal["passed", "redacted", "refused", "failed"]
"""What an inspector decided. `failed`: it gave no decision."""


class InspectionRecord(Struct, omit_defaults=True):
    """What an inspector did with a request or its reply, without the text."""

    inspector: str
    """Name of the inspector."""
    part: InspectedPart
    """What it read."""
    decision: InspectionDecision
    """The most serious decision about this part."""
    kinds: dict[str, int] = {}  # a struct copies it
    """What was found → how often."""
    seconds: float = 0.0
    """Duration of all its calls for this part."""
    failure: str = ""
    """Why there is no decision: `timeout`, `too large`, or the class of the exception. "": there was no failure."""


class ModelUsage(TokenCounts, kw_only=True, omit_defaults=True):
    """What one model has used of a request, and what this costs."""

    provider: str
    """Name of the provider."""
    model: str
    """Model id at the provider, without a prefix."""
    kind: str = ""
    """What the model was called for within the provider: `advisor_message`, `compaction`, `fallback_message`,
    `message`, or another type of `usage.iterations`. "": the request itself."""
    searches: int = 0
    """Web searches that the provider ran and bills."""
    cost: int | None = None
    """Cost in nano-dollars at the price of the model. None: the price is unknown."""
    requested_cost: int | None = None
    """As `Cost.requested_cost`."""


class Cost(Struct, frozen=True):
    """Two costs of one request: at the price of the used model, and at the price of the model the client requested."""

    cost: int | None
    """Cost in nano-dollars of tokens and searches at the price of the used model. None: a price is unknown."""
    requested_cost: int | None
    """Cost in nano-dollars of the same tokens and searches at Claude's list price of the requested model, in the normal
    service tier. None: unknown."""
    source: str
    """Origin of the price of the used model, such as `genai-prices 0.2.3`, or `local` for a free model.

    Service tier and number of searches follow: `genai-prices 0.2.3, tier flex, 2 web searches`. If only a part of the
    price is unknown, the text names it: `genai-prices 0.2.3, no price of web searches`. "": the model has no price.
    """
    parts: tuple[ModelUsage, ...] = ()
    """Parts of tokens and costs by model. Empty: all of it belongs to the model of the receipt."""


class Receipt(BilledUsage, kw_only=True):
    """Record of one client request: ids, names, counts, times and texts of errors, without message content.

    The record is complete when the request has finished. Its tokens include those of failed and repeated calls that the
    provider reported, because it bills them.
    """

    request_id: str
    """Id of the request in the response header `request-id`: `req_…`."""
    client: Client
    """Client that sent the request."""
    started_at: float
    """Time of the start of the request, in seconds since the epoch."""
    method: str = "POST"
    """HTTP method of the client request."""
    path: str = "/v1/messages"
    """URL path without the query."""
    user_agent: str = ""
    """Request header `user-agent`: the program of the client. "": not sent."""
    session: str = ""
    """Session id of the client: header `x-claude-code-session-id`, else the one in `metadata.user_id`. One of more than
    256 characters is replaced by its SHA-256, as is `agent`."""
    agent: str = ""
    """Header `x-claude-code-agent-id`: id of a subagent of Claude Code. "": the main agent."""
    project: str = ""
    """Header `x-project`: the name by which a user groups requests, or that of the folder of `anthropic-proxy code`."""
    requested_model: str = ""
    """Model id in the client request. "": the request has no model."""
    provider: str = ""
    """Name of the provider that replied or failed last. "": no provider was called."""
    prefix: str = ""
    """Prefix by which a client requests a model of the provider: `gemini`."""
    model: str = ""
    """Model id at the provider, without a prefix."""
    base_url: str = ""
    """URL of the provider, by which a price is found. "": no provider was called."""
    route: str = ""
    """Name of the matching route of the configuration file. "": none matches."""
    session_model: str = ""
    """Model that a person has chosen for the session, for which the request was planned. "": that of the client."""
    route_reason: str = ""
    """Text for the log: the rule or setting that chose the target."""
    tool_count: int = 0
    """Number of tool definitions in the client request."""
    message_count: int = 0
    """Number of messages in the client request."""
    tool_results: int = 0
    """Number of results of client tools that the client sent after the last assistant message."""
    tool_errors: int = 0
    """Number of these results that have `is_error`: the tool failed."""
    stream: bool = False
    """True if the client requested a streamed reply."""
    first_token_seconds: float | None = None
    """Seconds from the start of the request to the first content of the reply. None: the reply has no content."""
    duration_seconds: float = 0.0
    """Seconds from the start of the request to the last byte of the response."""
    status: int = 0
    """HTTP status of the response, or of the error that ended a stream, as the client is told about it. 0: the client
    disconnected before the response.
    """
    outcome: str = ""
    """Stop reason of the reply, `error`, `cancelled` (the client disconnected), or `negotiated`."""
    error_type: str = ""
    """Type of the error in Anthropic's format: `rate_limit_error`. "": no error. The client is told of another one if
    the error is about a hop behind the proxy."""
    error_code: str = ""
    """Entry of the error catalog at `/help/errors` with cause and remedy: `rate-limit`. "": no entry."""
    error: str = ""
    """Error message that the client received, with API keys masked. "": no error."""
    remedy: str = ""
    """End of the message that only concerns whoever administers the proxy, such as a setting. "": none."""
    retry_after_seconds: int | None = None
    """Seconds until a retry of a failed request is useful, sent as `retry-after`. None: unknown, or a retry is useless.
    """
    upstream_excerpt: str = ""
    """Beginning of an upstream error body that is no error object, such as the page of a gateway; keys are redacted."""
    failed_attempts: list[str] = field(default_factory=list)
    """Failed upstream attempts before the last one: `groq 429`, with the status that the provider sent."""
    limit_headers: dict[str, str] = field(default_factory=dict)
    """Response headers with limits of the client and the remaining amounts:
    `anthropic-ratelimit-requests-remaining`."""
    adaptations: list[str] = field(default_factory=list)
    """Changes of the upstream request after the provider rejected a parameter: `drop top_k`."""
    plain_form: Sequence[str] = ()
    """Titles of the parts that the last call lacked because the provider refuses such requests in unknown words:
    `drop top_k`."""
    fidelity: FidelityReport = field(default_factory=FidelityReport)
    """Fidelity mode, and notes about fields of request and reply that were changed, emulated, kept or dropped."""
    attempts: list[UpstreamAttempt] = field(default_factory=list)
    """All upstream attempts in order: failed attempts, and several successful ones if the proxy runs tools."""
    blocks: list[BlockMark] = field(default_factory=list)
    """Start of each content block, and end of the reply: kind, name of the called tool, seconds since the epoch,
    characters before it. Empty: there are none, or the reply was relayed."""
    prefix_change: PrefixChange | None = None
    """Change of the beginning of the prompt, compared with the one before in the conversation. None: there is none, or
    the request belongs to no session."""
    kind: RequestKind = ""
    """What the request is for, by the hint headers of Claude Code, or as the proxy guesses: `main`, `subagent`,
    `workflow`, `compaction`, `auxiliary`, `side_reply`, `classifier`, `auto_mode_check`,
    `image_description`, or `other`. "": unknown."""
    message_id: str = ""
    """Id of the reply that the client received: `msg_…`. "": no reply, or it was forwarded."""
    agent_type: str = ""
    """Header `x-claude-code-agent-type`: kind of sub-agent, such as `Explore`. "": none, or unknown."""
    prompt_id: str = ""
    """Header `x-claude-code-prompt-id`: the user's prompt that led to the request. "": unknown."""
    parent: str = ""
    """Id of the client request to which a check belongs. "": the request is one of a client."""
    checks: list[CallCheck] = field(default_factory=list)
    """Checks of the tool calls of the reply, or the one that this request was made for."""
    inspections: Sequence[InspectionRecord] = ()
    """What each inspector did with the request and its reply. Empty: there are no inspectors."""
    tool_times: list[tuple[str, float]] = field(default_factory=list)
    """Header `x-claude-code-prev-tool-durations`: name of each tool whose result the request has, and the seconds that
    it took. Empty: not sent."""
    trace: TraceContext | None = None
    """Trace of the request. None: traces are off, and the client sent no valid `traceparent`."""
    cost: Cost | None = None
    """Its costs at the prices of the time when they were first calculated. None: they are not calculated yet."""

    @property
    def notes(self) -> list[FidelityNote]:
        """Fidelity notes, which record that a field of the request or reply was changed, emulated, kept or dropped."""
        return self.fidelity.notes


Headers = Mapping[str, str]
"""Headers of a client request: name in lower case → value."""


Settle = Callable[[Receipt], None]
"""Function that a policy returns for an admitted request.

The proxy calls it with the receipt at the end of the request, also after a failure. It must not block. An exception is
logged.
"""


class Limiter(Protocol):
    """Limits of a plugin."""

    async def admit(self, request: AdmissionRequest) -> Settle | None:
        """Check a client request before any call to a provider. Raise a `ClientError` to reject it.

        When the request has ended, also after a failure, the proxy calls the returned function with the receipt
        (record) of the request. None: there is no such function to call.
        """


class Policy(Limiter, Protocol):
    """Access rules of a plugin. Each method may raise a `ClientError`, which rejects the client request."""

    async def identify(self, headers: Headers) -> Client | None:
        """Return the client of a request from its headers. None: this policy does not know the client.

        The proxy calls this before it reads the body.
        """


class Observer(Protocol):
    """Receives the receipt of each finished client request, also of rejected ones.

    Health checks (`/`, `/health`, `/readyz` …) and requests to routes of plugins have no receipt.
    """

    def record(self, receipt: Receipt) -> Awaitable[None] | None:
        """Process the receipt of a finished request.

        If the method is `async`, the proxy runs it in a task. The method receives the next receipt only after it has
        processed this one.
        """
        # called after the last byte of the response; a plain method runs at once, which needs less CPU time


class Tracer(Protocol):
    """Creates the trace ids of each client request.

    It does not export the trace: an observer builds the trace later, from the receipt of the request.
    """

    def start_trace(self, parent: TraceContext | None) -> TraceContext:
        """Return the trace ids for a new client request. Must not block.

        `parent` is the trace that the client sent. None: the client sent none, so a new trace begins.
        """


LogLevel = Literal["debug", "info", "warning", "error"]
"""Importance of a log entry, in ascending order. An entry below the level of the log (`LOG_LEVEL`) is not written."""


class EngineLog(Protocol):
    """Log for what an engineer should know. It masks API keys."""

    def write_once(self, text: str, level: LogLevel = "info") -> None:
        """Write a text, unless it was written before."""

    def write_warning(self, text: str) -> None: ...

    def write_traceback(self, request_id: str, quotes: Mapping[str, str] = MappingProxyType({})) -> None:
        """Write the exception that is being handled. `quotes`: see `ProxyError.quotes`."""
