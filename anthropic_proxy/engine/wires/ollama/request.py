"""Encoder of a prepared client request as a request to Ollama's `/api/chat`.

The body has the messages, the tools, and `options` with sampling, the context window and the output limit.

Ollama cannot force a tool call. If the client requires one, the proxy adds a user text, and offers only the tool that
the client names. Schemas are reduced to the few keywords that Ollama passes to the model's template; other keywords
become text in descriptions.
"""

from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import (
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
    json_string,
)
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.json_schema import SchemaRules, clean_schema
from anthropic_proxy.engine.wires.message_encoder import (
    EMPTY_JSON_STRING,
    MOVED_MEDIA_TEXTS,
    TOOL_ERROR_PREFIX,
    MessageEncoder,
    join_json_strings,
    join_system_prompt,
)
from anthropic_proxy.engine.wires.ollama.dialect import Dialect, resolve_context_window
from anthropic_proxy.engine.wires.past_media import omit_past_media
from anthropic_proxy.engine.wires.schema_parts import (
    MAX_TEXT_CHARACTERS,
    EqualityIndex,
    Schema,
    add_texts,
    encode_if_short,
    merge_all_of,
)
from anthropic_proxy.engine.wires.shared_notes import (
    EFFORT_AS_SWITCH,
    FOREIGN_THINKING_DROPPED,
    NO_EFFORT,
    NO_SAMPLING,
    NO_SERVICE_TIER,
    SCHEMA_AS_TEXT,
    SINGLE_TOOL_CALL,
)
from anthropic_proxy.engine.wires.thinking import decode_signature
from anthropic_proxy.engine.wires.tools import (
    EncodedTool,
    ask_for_call,
    build_forced_tool_error,
    for_each_client_tool,
    name_forced_tools,
    tool_description,
)
from anthropic_proxy.engine.wires.upstream_http import JSON_HEADERS, UpstreamRequest


class ToolFields(Struct):
    definitions: list[Raw]
    user_instruction: str = ""
    """User text that requests a tool call, because the server cannot force it. "": none."""
    notes: list[FidelityNote] = []


def encode_tools(call: TranslatedCall[Dialect], budget: WorkBudget) -> ToolFields:
    """Encode the client's tools. Raises `UnsupportedFeature` if a forced tool cannot be offered."""
    choice = call.request.tool_choice
    offered = call.request.tools
    if choice is not None and choice.type == "tool":
        offered = [tool for tool in offered if tool.name == choice.name]
    elif choice is not None and choice.type == "none":
        offered = []
    definitions, notes = _encode_functions(offered, budget)
    tools = ToolFields([*definitions], notes=[*notes])
    if choice is not None and choice.type in ("any", "tool"):
        if not definitions:
            names = name_forced_tools(call)
            raise build_forced_tool_error(call, f"a tool, because it supports none of the given tools: {names}.")
        named = choice.type == "tool"
        tools.user_instruction = ask_for_call(choice)
        how = "only that tool is offered, and a user text" if named else "a user text"
        why = f"{call.provider_prefix} is not known to force calls; {how} asks for one"
        tools.notes.append(FidelityNote("emulated", "tool_choice", why))
    if choice is not None and choice.disable_parallel_tool_use and definitions:
        tools.notes.append(SINGLE_TOOL_CALL)
    return tools


@for_each_client_tool
def _encode_functions(tool: Tool, budget: WorkBudget) -> EncodedTool:
    budget.count_decoding_steps(tool.input_schema)
    schema = decode_values(tool.input_schema) if tool.input_schema else {}
    parameters, root_description, lost, keywords = encode_parameters(schema, budget)
    function: dict[str, Any] = {"name": tool.name}
    if description := tool_description(tool, root_description):
        function["description"] = description
    function["parameters"] = parameters
    if tool.strict:
        lost = (*lost, "strict was not sent: the server has no known strict mode")
    return EncodedTool(Raw(msgspec.json.encode({"type": "function", "function": function})), lost, keywords)


_RULES = SchemaRules(inlines_references=True)  # a property has no room for `$ref`
_WITHOUT_TEXT = frozenset(
    (
        *("type", "description", "enum", "items", "properties", "required", "anyOf", "const", "oneOf", "allOf"),
        *("title", "deprecated", "readOnly", "writeOnly", "$anchor", "$defs", "definitions"),
    )
)
"""Keywords that are sent or rewritten, and those that are dropped because they mean nothing to a model."""
_OTHERS = frozenset(("additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems"))
"""Keywords that matter only if their value is a schema, not a boolean."""


class EncodedParameters(NamedTuple):
    schema: Schema
    description: str
    """Text for the tool's description, from the root of the schema. "": none."""
    losses: tuple[str, ...]
    """Texts for fidelity notes: one for each loss."""
    keywords_as_text: frozenset[str]


def encode_parameters(schema: Any, budget: WorkBudget | None = None) -> EncodedParameters:
    """Return the input schema of a tool with only the keywords that Ollama accepts.

    Other keywords become text in descriptions. Raises `WorkLimitExceeded` if the work exceeds `budget`.
    """
    budget = budget or WorkBudget("schema")
    cleaned, lost = clean_schema(schema, _RULES, budget)
    reduction = _Reduction(budget, lost)
    reduced = reduction.reduce(cleaned)
    parameters: Schema = {"type": "object"}
    if "required" in reduced:
        parameters["required"] = reduced["required"]
    parameters["properties"] = reduced.get("properties", {})
    return EncodedParameters(parameters, reduced.get("description", ""), tuple(lost), frozenset(reduction.hinted))


class _Reduction:
    def __init__(self, budget: WorkBudget, lost: list[str]) -> None:
        self._budget = budget
        self._index = EqualityIndex(budget)
        self._lost = lost
        self.hinted: set[str] = set()

    def reduce(self, schema: Any) -> Schema:
        if not isinstance(schema, dict):
            return {}
        self._budget.count_steps(1 + len(schema))
        schema = merge_all_of(schema, self._index)
        own = schema.get("description")
        reduced: Schema = {"description": own if isinstance(own, str) else ""}
        kind = schema.get("type")
        if isinstance(kind, str) or _are(str, kind):
            reduced["type"] = kind
        choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(choices, list) and choices:
            reduced["enum"] = choices
        if isinstance(schema.get("items"), dict | list):  # read without validation
            reduced["items"] = schema["items"]
        branches = schema.get("anyOf", schema.get("oneOf"))
        if _are(dict, branches):
            reduced["anyOf"] = [self.reduce(branch) for branch in branches]
        properties = schema.get("properties")
        if isinstance(properties, dict):
            reduced["properties"] = {name: self.reduce(inner) for name, inner in properties.items()}
        if _are(str, schema.get("required")) and schema["required"]:
            reduced["required"] = schema["required"]
        hints: list[str] = []  # for the keywords that Ollama ignores
        for key, value in schema.items():
            if key in _WITHOUT_TEXT or (key in _OTHERS and not (isinstance(value, dict) and value)):
                continue
            self.hinted.add(key)
            is_text = isinstance(value, str) and value and len(value) <= MAX_TEXT_CHARACTERS
            shown = value if is_text else encode_if_short(value)
            if shown is None:
                self._lost.append(f"{key} is not sent: it is too long for a description")
            else:
                hints.append(f"{key}: {shown}")
        add_texts(reduced, hints)
        if not reduced["description"]:
            del reduced["description"]
        return reduced


def _are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


_encode = msgspec.json.Encoder().encode
_UNTHOUGHT = FidelityNote("approximated", "thinking", "a started reply continues without thinking first")


def encode_request(call: TranslatedCall[Dialect]) -> UpstreamRequest:
    notes: list[FidelityNote] = []
    if call.dialect.omits_past_media:
        call = omit_past_media(call, notes)
    request, dialect = call.request, call.dialect
    budget = WorkBudget("tools", max_steps_here=call.max_schema_steps, tool_names=call.client_tool_names)
    tools = encode_tools(call, budget)
    schema = request.output_schema
    instruction = ""
    if schema and tools.definitions:
        # `format` binds every token of the reply, so the model could never call a tool
        notes.append(SCHEMA_AS_TEXT)
        shown = msgspec.json.format(bytes(schema), indent=-1).decode()
        instruction = f"When you give your answer, reply with nothing but JSON that fits this JSON Schema:\n{shown}"
    messages = _Messages(call)
    body: dict[str, Any] = {
        "model": call.model,
        "messages": messages.encode_messages(extra_system=instruction, user_instruction=tools.user_instruction),
        "stream": call.streams_upstream,  # left out it means true
    }
    if tools.definitions:
        body["tools"] = tools.definitions
    elif schema:
        body["format"] = schema
    if (think := _think(request.effort, dialect, messages.begins_reply, notes)) is not None:
        body["think"] = think
    if dialect.keep_alive is not None:
        is_seconds = dialect.keep_alive.removeprefix("-").isdecimal()
        body["keep_alive"] = int(dialect.keep_alive) if is_seconds else dialect.keep_alive
    # both refuse what does not fit, in place of leaving out the beginning or the middle of a conversation in silence
    body["truncate"] = body["shift"] = False
    options: dict[str, Any] = {"num_ctx": resolve_context_window(call)} if dialect.sends_num_ctx else {}
    options["num_predict"] = request.max_tokens
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
    stated = {name: value for name, value in sampling.items() if value is not None}
    body["options"] = options | stated if dialect.sends_sampling else options
    if stated and not dialect.sends_sampling:
        notes += [NO_SAMPLING[name] for name in stated]
    if request.service_tier == "standard_only":
        notes.append(NO_SERVICE_TIER)
    notes += [*tools.notes, *messages.notes]
    return UpstreamRequest(path="/api/chat", body=_encode(body), headers=JSON_HEADERS, notes=notes)


def _think(effort: str, dialect: Dialect, begins_reply: bool, notes: list[FidelityNote]) -> bool | str | None:
    """Return the value of the field `think`, which controls reasoning. None: the field is not sent."""
    if dialect.think_form == "never":
        if effort not in ("default", "none"):
            notes.append(NO_EFFORT)
        return None
    if begins_reply and dialect.think_form != "only_level":
        if effort != "none":
            notes.append(_UNTHOUGHT)
        return False  # the template engine refuses to think before text that stands already
    if effort == "default":
        return None
    if dialect.think_form != "switch" and effort != "none":
        return effort
    if effort != "none":
        notes.append(EFFORT_AS_SWITCH)
    return effort != "none"


class _Function(Struct, gc=False):
    index: int
    name: str
    arguments: Raw
    """Arguments of a tool call as a JSON object, not as text."""


class _Call(Struct, gc=False):
    id: str
    function: _Function


class _ChatMessage(Struct, kw_only=True, gc=False):
    role: str
    content: Raw = EMPTY_JSON_STRING
    """Text as a JSON string. Servers before 0.6 require the field."""
    thinking: str | UnsetType = UNSET
    images: list[str] | UnsetType = UNSET
    tool_calls: list[_Call] | UnsetType = UNSET
    tool_name: str | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET


class _Messages(MessageEncoder):
    sends_reminders = True
    mentions_image_urls = True

    def __init__(self, call: TranslatedCall[Dialect]) -> None:
        super().__init__(call.request, call.dialect.signature_tag)
        self.begins_reply = False
        """True if the last message is an assistant message, which the model continues."""
        self._signature_tag: str = call.dialect.signature_tag
        self._tool_names: dict[str, str] = {}
        """Id of a tool call → name of the called tool. A tool result is sent with the name."""
        self._joined: dict[int, list[Raw]] = {}
        """Index of a message in `messages` → texts of consecutive messages that are sent as this one."""

    def encode_messages(self, *, extra_system: str = "", user_instruction: str = "") -> list[Any]:
        """`extra_system` follows the system prompt, `user_instruction` the conversation. "": no text."""
        system = join_system_prompt(self._request, extra_system)
        if system is not None:
            self.messages.append(_ChatMessage(role="system", content=system))
        self._encode_conversation()
        self.begins_reply = bool(self.messages) and self.messages[-1].role == "assistant"
        if user_instruction:
            self._late_texts.append(json_string(user_instruction))
        if self._late_texts:
            self.begins_reply = False
            self._flush_late_texts()
        self._join_texts()
        if self._drops_thinking:
            self.notes.append(FOREIGN_THINKING_DROPPED)
        return self.messages

    def _join_texts(self) -> None:
        for place, texts in self._joined.items():
            self.messages[place].content = join_json_strings(texts)
        self._joined = {}  # their texts are held no longer

    def _append_system(self, texts: list[Raw]) -> None:
        self._append_user([*texts])

    def _place_late_texts(self, parts: list[Any]) -> None:
        parts[:0] = self._late_texts
        self._late_texts = []

    def _append_user(self, parts: list[Any]) -> None:
        """Append texts and images to the last user message or to a new one."""
        texts: list[Raw] = []
        images: list[str] = []
        for part in parts:
            if type(part) is Raw:
                texts.append(part)
            else:
                images.append(part)
        last = self.messages[-1] if self.messages else None
        if last is None or last.role != "user":
            last = _ChatMessage(role="user", content=join_json_strings(texts) if texts else EMPTY_JSON_STRING)
            self.messages.append(last)
        elif texts:
            first = [] if last.content is EMPTY_JSON_STRING else [last.content]
            self._joined.setdefault(len(self.messages) - 1, first).extend(texts)
        if images:
            last.images = last.images or []
            last.images += images

    def _append_result(self, block: ToolResultBlock, content: Any) -> None:
        name = self._tool_names.get(block.tool_use_id, "")
        self.messages.append(_ChatMessage(role="tool", tool_name=name, tool_call_id=block.tool_use_id, content=content))

    def _result_label(self, block: ToolResultBlock) -> str:
        return f"{block.tool_use_id}, {self._tool_names.get(block.tool_use_id, '')}"

    def _join_result_without_media(self, blocks: list[Any], content: list[Any], *, is_error: bool) -> Raw:
        """Return the text of a tool result. One sentence at its end replaces all images."""
        texts = [part for part in content if type(part) is Raw]
        mark = f"{TOOL_ERROR_PREFIX} ".encode() if is_error else b""
        return join_json_strings([*texts, MOVED_MEDIA_TEXTS[ImageBlock]], mark)

    def _encode_image(self, block: ImageBlock) -> str | None:
        return block.source.data if block.source.type == "base64" else None

    def _encode_reply(self, message: Message) -> None:
        texts: list[Raw] = []
        calls: list[_Call] = []
        thoughts: list[ThinkingBlock] = []
        for block in message.content:
            if type(block) is TextBlock:
                texts.append(block.text)
            elif type(block) is ToolUseBlock:
                calls.append(_Call(block.id, _Function(len(calls), block.name, block.input)))
                self._tool_names[block.id] = block.name
            elif type(block) is ThinkingBlock:
                thoughts.append(block)
        if not texts and not calls:
            return
        if self._late_texts:
            self._flush_late_texts()
        self._has_open_calls = bool(calls)
        reply = _ChatMessage(role="assistant", content=join_json_strings(texts) if texts else EMPTY_JSON_STRING)
        if thoughts:
            # Old thinking is sent too, because changes of earlier messages would make the prompt cache useless. The
            # model's template omits unneeded thinking.
            own = [one.thinking for one in thoughts if decode_signature(self._signature_tag, one.signature) is not None]
            if len(own) < len(thoughts):
                self._drops_thinking = True
            if thinking := "".join(own):
                reply.thinking = thinking
        if calls:
            reply.tool_calls = calls
        self.messages.append(reply)
