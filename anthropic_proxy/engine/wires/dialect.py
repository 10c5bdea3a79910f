"""Dialects, which describe how one server differs from the API of its wire, and adaptations, which change them.

Fields `has_…` and `accepts_…` of a dialect describe the server: its endpoints, and the content that it accepts. Fields
`sends_…` describe the upstream request. An `Adaptation` changes the dialect after a provider rejected a parameter.
"""

from typing import Literal, TypeVar

from msgspec import Struct

from anthropic_proxy.engine.messages.loaded_tools import LoadedToolForm
from anthropic_proxy.engine.messages.models.tools import MAX_TOOL_NAME_LENGTH, TOOL_NAME_PATTERN
from anthropic_proxy.engine.messages.server_tools import ServerToolKind
from anthropic_proxy.engine.wires.json_schema import UNRESTRICTED_RULES, SchemaRules

ThinkingForm = Literal["adaptive", "enabled", "between_tools", "disabled"]
"""Type of the field `thinking` of the Messages API. `enabled`: with a number of tokens. `between_tools`: not before the
reply begins."""
ForcedToolCondition = Literal["always", "any", "not_thinking", "never"]


class BaseDialect(Struct, frozen=True, kw_only=True, cache_hash=True):
    """Base class of dialects, which describe how one server differs from the API of its wire."""

    tool_name_pattern: str = TOOL_NAME_PATTERN
    """Regular expression of allowed tool names. Any other name is replaced by an alias. Default: the rule of the
    Messages API."""
    max_tool_name_length: int = MAX_TOOL_NAME_LENGTH
    """Maximum number of characters of a tool name. A longer name is replaced by an alias."""
    always_stream: bool = False
    """True if every upstream request streams, even if the client requests no stream."""
    continuation_version: str = ""
    """API version in the URL of a request that continues a reply: `/v1beta1`. "": the version of the base URL."""
    server_tools: tuple[ServerToolKind, ...] = ()
    """Kinds of server tools (`web_search` …) that the upstream server runs itself."""
    server_tools_exclusive: bool = False
    """True if the upstream server rejects a request with both server tools and client tools."""
    loaded_tools: Literal["caller", "listed"] = "caller"
    """Place of the definitions of tools that a tool search of the client has loaded. `caller`: in the result of the
    search, and the model calls them by one constant tool, so that the provider's prompt cache stays valid. `listed`: in
    the list of tools.

    Proven by: golden/openai_chat/tools/loaded_tool_listed."""
    prompt_settings: tuple[str, ...] = ()
    """Request fields that the provider writes into the beginning of the prompt, so that another value moves everything
    behind it: `reasoning.effort`. The prefix guard names their changes.

    Proven by: tests/unit/exchange/test_prefix_guard.py."""
    schema_language: SchemaRules = UNRESTRICTED_RULES
    """Rules of the JSON Schemas that the model's vendor reads, also if another host forwards requests to it. They hold
    beside those of the server. Google's and Ollama's own APIs do not read the field.

    Proven by: golden/openai_chat/structured_output/moonshot_schema, golden/anthropic/tools/kimi_at_a_gateway.
    """
    has_count_tokens: bool = False
    """True if the upstream server has `/v1/messages/count_tokens`."""
    count_paths: tuple[str, ...] = ()
    """Paths below the base URL at which the upstream server counts the tokens of a request in its own format. The first
    that exists is used. `{model}` stands for the model id; a path that begins with `/../` is beside the base URL. ():
    the proxy estimates.

    Proven by: tests/unit/exchange/test_engine_counts.py."""
    has_model_list: bool = False
    """True if `/v1/models` of the upstream server has Anthropic's format."""
    omits_past_media: bool = False
    """True if a sentence takes the place of pictures and documents of earlier turns.

    Proven by: tests/unit/exchange/test_plain_form.py."""
    repairs_unknown_refusals: bool = True
    """True if a request that the server refuses in unknown words is repeated in a plainer form. False: Anthropic, whose
    errors the clients know and answer themselves.

    Proven by: tests/unit/exchange/test_plain_form.py."""
    thinking_forms: tuple[ThinkingForm, ...] = ()
    """Types of `thinking` that the model has. Without `disabled`, it thinks in every request; with `disabled` alone, in
    none. Empty: not known. If a setting chose the model, the request is fitted to them.

    Proven by: tests/unit/exchange/test_claude_models.py."""
    accepts_forced_tool: ForcedToolCondition = "always"
    """Condition on which `tool_choice` may force a call. Otherwise a user text requests it (`emulate_forced_tool`).

    `any`: only a call of any tool (Kimi k3: platform.kimi.ai/docs/api/chat, 2026-11-20). `not_thinking`: Kimi k2 and
    DeepSeek reject a forced call while they reason. Over Chat Completions, the proxy then disables reasoning that the
    client did not request. Proven by: tests/unit/exchange/test_claude_models.py,
    golden/openai_chat/tools/moonshot_forced_tool, golden/openai_chat/tools/moonshot_k3_forced_tool."""

    @property
    def thinks_always(self) -> bool:
        """True if no type of `thinking` turns it off."""
        return bool(self.thinking_forms) and "disabled" not in self.thinking_forms

    @property
    def always_reasons(self) -> bool:
        """True if the model is known to reason in every request, whatever the client asks for."""
        return self.thinks_always

    @property
    def min_output(self) -> int:
        """Minimum output limit that the server accepts."""
        return 1

    @property
    def thinking_budgets(self) -> tuple[tuple[str, int], ...]:
        """Pairs of an effort level and the number of tokens that is sent in its place. (): levels are sent."""
        return ()

    @property
    def loaded_tool_form(self) -> LoadedToolForm:
        return self.loaded_tools

    @property
    def sends_effort_changes(self) -> bool:
        """True if a changed effort is sent as an item inside the conversation, which keeps the prompt cache valid."""
        return False

    @property
    def accepts_thinking_budget(self) -> bool:
        """True if the amount of thinking is sent as a number of tokens. False: as a level, or not at all."""
        return False


DialectT = TypeVar("DialectT", bound=BaseDialect)
DialectT_co = TypeVar("DialectT_co", bound=BaseDialect, covariant=True)


REASONS_UNASKED = "reasons unasked"
"""Name of an adaptation: the model has reasoned in a request without an effort level."""
REASONS_ALWAYS = "reasons always"
"""Name of an adaptation: the model has reasoned in a request that disables it."""
WITHOUT_SAFEGUARDS = "fields safeguards"
"""Name of an adaptation of the Messages API: the field that requests checks of tool calls is left out."""
UNOPENED_REASONING = "reads unopened reasoning"
"""Name of an adaptation: the text of replies begins with reasoning that has only an end tag."""
TEMPLATE_SWITCH = "template enable_thinking"
"""Name of the adaptation after which the chat template of a local model is told not to reason."""
SYSTEM_REMINDER = "system reminder"
"""Name of an adaptation: system messages inside a conversation are sent as text of the user. Like `SYSTEM_MESSAGE`, it
changes only dialects whose servers accept both forms."""
SYSTEM_MESSAGE = "system message"
"""Name of an adaptation: system messages inside a conversation are sent with their role."""


class Adaptation(Struct, frozen=True):
    """Named change of the dialect for the next upstream requests, after the provider rejected a parameter."""

    name: str
    """Name of the change, without secrets: `drop temperature`, `limit 4096`. The name `wire NAME` switches the model to
    another wire of the provider."""
    persistent: bool = True
    """True if the change is stored for later requests to the model. False: it applies to this request only."""
    stored_name: str = ""
    """Name of the change that later requests need instead. "": the same. It is not stored if a later change of this
    request has the same first word in `name`: it did not avoid the rejection."""
    stored_if_rejected: bool = False
    """True if the change is also stored if the request with it is rejected (status 400) for another reason."""
    refused_thinking: tuple[bytes, ...] = ()
    """Digests of thinking blocks of the request, or of its tool loop. These, or all thinking in this loop, are left out
    of this and later requests to the model."""


_MAX_TITLE_WORDS = 4
SAMPLING_VALUES = ("temperature", "top_p", "top_k")
EFFORT_VALUES = ("output_config.effort", "thinking")
SCHEMA_VALUES = ("output_config.format", "output_format")
"""`RequestPart.values` of parts of several APIs."""


def shorten_name(name: str) -> str:
    """Return the name of an adaptation for people. Some have ten fields."""
    words = name.split(" ")
    if len(words) <= _MAX_TITLE_WORDS:
        return name
    return f"{' '.join(words[:_MAX_TITLE_WORDS])} and {len(words) - _MAX_TITLE_WORDS} more"


class RequestPart(Struct, frozen=True, kw_only=True):
    """Part of a request that the adaptation `name` leaves out, or sends in a plainer form."""

    name: str
    changes_prefix: bool = False
    """True if the beginning of the prompt is another one without it, so that the provider's prompt cache is lost."""
    values: tuple[str, ...] = ()
    """Paths of the fields of the client's request on which its value depends. A server may refuse a value only. (): it
    has no value, or one that the proxy has chosen."""
    is_content: bool = False
    """True if it is content of the conversation. It is then left out of this conversation only."""
    is_last: bool = False
    """True if it is left out only after the server has refused the conversation without all other parts, or if the
    status of the error is about media."""
    is_single: bool = False
    """True if it is left out only alone, and only if the server has refused the request without all other parts: the
    proxy does not know what it is for."""
    is_lossless: bool = False
    """True if model and client lose nothing without it, so that `FIDELITY=strict` allows it."""
    states_usage: bool = False
    """True if the server states the usage of a reply only with it. A failure of the moment does not leave it out."""

    @property
    def title(self) -> str:
        """Name for headers, metrics and people."""
        return f"{self.name} (unknown to the proxy)" if self.is_single else shorten_name(self.name)
