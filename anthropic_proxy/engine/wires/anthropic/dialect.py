"""`Dialect`: deviations of servers with the Messages API from Anthropic's own, one field each.

A signature is opaque state of a server, which clients send back.
"""

from anthropic_proxy.engine.messages.server_tools import ServerToolKind
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.json_schema import UNRESTRICTED_RULES, SchemaRules


class Dialect(BaseDialect, frozen=True, kw_only=True, cache_hash=True):
    """Deviations of one server from Anthropic's Messages API. The defaults describe Anthropic's own server."""

    verifies_signatures: bool = True
    """True if the server rejects thinking and search results that it did not sign. Search results without
    `encrypted_content`, which only other backends send, are then removed. False: Ollama, vLLM and llama.cpp read no
    signature (source: their servers' code, read 2026-11). Proven by: golden/anthropic/server_tools/foreign_search,
    golden/anthropic/server_tools/local_server_history."""
    sends_past_thinking: bool = True
    """True if thinking of earlier replies is sent. False: a signature of another server was rejected.

    Proven by: tests/unit/exchange/test_relay.py.
    """
    max_effort_without_thinking: str = ""
    """Highest effort beside `thinking` of the type `disabled` or `between_tools`. "": any. Proven by:
    tests/unit/exchange/test_claude_models.py."""
    tools_as_functions: tuple[str, ...] = ()
    """Patterns of types of tools that Anthropic has defined, and that the model does not have: `computer_20*`. If a
    setting chose the model, it gets a function with the same name and input, as models of other providers do.
    Proven by: tests/unit/exchange/test_claude_models.py."""
    accepts_sampling: bool = True
    """False: the model rejects `temperature`, `top_p` and `top_k`.

    Proven by: tests/unit/exchange/test_claude_models.py.
    """
    accepts_prefill: bool = True
    """False: the model rejects a conversation that ends with a message of the assistant.

    Proven by: tests/unit/exchange/test_claude_models.py.
    """
    thinks: bool = True
    """False: the server has rejected thinking, because an open tool loop does not begin with it. The request disables
    it. Proven by: tests/unit/exchange/test_foreign_thinking.py."""
    requires_thinking_with_calls: bool = False
    """True if a reply with a tool call must have thinking, unless the request turns thinking off (DeepSeek:
    SuperJJ007/CSSwitch issue 70, farion1231/cc-switch issue 3222, read 2026-11-26). If the conversation has none, or
    only that of another provider, such a reply gets its text, or a placeholder. Proven by:
    golden/anthropic/thinking/deepseek_calls."""
    schema_rules: SchemaRules = UNRESTRICTED_RULES
    """Restrictions on the input schemas of client tools, which are forwarded unchanged without them. Proven by:
    golden/anthropic/tools/local_server_schemas."""
    accepts_system_messages: bool = True
    """True if a message in `messages` may have the role `system`. False: its text is added to the user message before
    it, between `<system-reminder>` tags. Older Ollama, LM Studio and vLLM reject the role (ollama/ollama issue 16372,
    vllm-project/vllm issue 44000, lmstudio-bug-tracker issue 2204). Proven by:
    golden/anthropic/text/local_server_system_messages."""
    forwards_client_headers: bool = True
    """True if the client's headers are forwarded: platform, session and custom headers.

    False: only the API version, the content type and `betas` are sent. The other headers identify the user's machine.
    Proven by: golden/anthropic/text/local_server.
    """
    betas: tuple[str, ...] = ("*",)
    """Patterns of the betas that are forwarded, in the header `anthropic-beta`. Others are removed, because the server
    would reject the request. Empty: the header is not sent.
    Proven by: tests/unit/exchange/test_clouds.py."""
    betas_listed_on: str = ""
    """Date of the list `betas`, which cannot know later ones. A beta with a later date at the end of its name is tried.
    "": none is. Proven by: tests/unit/exchange/test_clouds.py."""
    removed_betas: tuple[str, ...] = ()
    """Patterns of betas that are removed although `betas` contains them, such as those that the server has rejected.

    Proven by: tests/unit/exchange/test_clouds.py.
    """
    suspected_betas: tuple[tuple[str, ...], ...] = ()
    """Sets of betas. The server rejects at least one of each set, and has not said which. A set of one is never sent.
    Proven by: tests/unit/exchange/test_clouds.py."""
    accepted_betas: tuple[str, ...] = ()
    """Betas that the server has accepted since it refused others. Proven by: tests/unit/exchange/test_clouds.py."""
    unproven_betas: tuple[str, ...] = ()
    """Patterns of betas that are forwarded, although it is not known that the server has their features: it may ignore
    them, or pass them on to Claude. Edits of the conversation with such a beta are made by the proxy.
    Proven by: tests/unit/exchange/test_relayed_compaction.py."""
    renamed_betas: tuple[tuple[str, str], ...] = ()
    """Pairs of a beta and the name that the server has for it. Proven by: tests/unit/exchange/test_clouds.py."""
    sends_betas_in_body: bool = False
    """True if betas are also sent as `anthropic_beta` in the body. Proven by: tests/unit/exchange/test_clouds.py."""
    message_path: str = ""
    """Path of a message with `{model}`, for servers with the model in the URL, not in the body. "": `/v1/messages`.

    Proven by: tests/unit/exchange/test_clouds.py.
    """
    stream_path: str = ""
    """As `message_path`, for a message that is streamed. Proven by: tests/unit/exchange/test_clouds.py."""
    count_path: str = ""
    """Path of a token count, with the model in the body. "": `/v1/messages/count_tokens`.

    Proven by: tests/unit/exchange/test_clouds.py.
    """
    sends_stream_field: bool = True
    """True if `stream` is sent. False: the path tells. Proven by: tests/unit/exchange/test_clouds.py."""
    version_in_body: str = ""
    """Value of `anthropic_version` in the body, for clients with the API version 2023-06-01. A newer version is sent as
    it is. "": the version is sent in the header. Proven by: tests/unit/exchange/test_clouds.py."""
    accepts_newer_versions: bool = True
    """True if the server has newer versions than `version_in_body`.

    Proven by: tests/unit/exchange/test_clouds.py.
    """
    dropped_fields: tuple[str, ...] = ()
    """Fields of the request that are removed, because the server rejects them: `speed`. A name with points is that of a
    field inside of another one (`rejected_fields.py`): `tools.strict`.
    Proven by: tests/unit/exchange/test_clouds.py."""
    missing_tools: tuple[ServerToolKind, ...] = ()
    """Kinds of Anthropic's server tools that the server does not run: `web_search`. Such tools are removed, and their
    calls and results in the conversation become text. Proven by: tests/unit/exchange/test_clouds.py."""
    tool_versions: tuple[str, ...] = ()
    """Types of server tools that replace other versions of the same tool, which the server does not have:
    `web_search_20250305`. Proven by: tests/unit/exchange/test_clouds.py."""
    streams_tool_input: bool = True
    """False: the server sends the input of a call in one piece, after minutes of silence, unless the tool has
    `eager_input_streaming` (maximhq/bifrost 1.11.2, release notes, read 2026-11-26). The tools of a streamed request
    get this field. Proven by: golden/anthropic/tools/bedrock_eager_input."""
    accepts_media_urls: bool = True
    """True if images and documents may be URLs. False: they must be base64 data. Proven by:
    tests/unit/exchange/test_clouds.py."""
    drops_rejected_fields: bool = False
    """True if betas and fields that the server has rejected are left out of the next request. False: the client gets
    the error, as from Anthropic's own server. Proven by: tests/unit/exchange/test_clouds.py."""
    forwards_metadata: bool = True
    """True if `metadata` and the billing line of Claude Code are forwarded. False: they are removed, because they
    contain an account and a device. The billing line changes with each session, which spoils
    the prefix cache of servers that compare text. Proven by: golden/anthropic/text/local_server."""
    has_anthropic_errors: bool = True
    """True if errors of the server have Anthropic's types and texts, so that they are forwarded unchanged. False: the
    proxy writes the errors, because other servers have their own types (vLLM's `NotFoundError`, OpenRouter's number).
    Only Anthropic's text for a too long input makes clients compact their history (source:
    vllm/entrypoints/anthropic/api_router.py, read 2026-11). Proven by:
    golden/anthropic/errors/local_server_overflow."""
    has_count_tokens: bool = True
    """True if the server has `/v1/messages/count_tokens`.

    False: Ollama (source: docs.ollama.com, Anthropic compatibility). Proven by: tests/unit/exchange/test_relay.py.
    """
    has_model_list: bool = True
    """True if `/v1/models` of the server has Anthropic's format.

    False: OpenAI's format, as on other servers. Proven by: tests/unit/exchange/test_relay.py.
    """
