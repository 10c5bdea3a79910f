"""Reasons for differences between LiteLLM and us: one row each; a difference that no row explains fails the test."""

import re
from dataclasses import dataclass

from tests.differential.comparing import Difference

_NEVER = r""
_SOMETHING = r".+"
_ANYTHING = r".*"


@dataclass(frozen=True)
class Reason:
    """One class of differences. `place`, `theirs` and `ours` are patterns that match the whole of a difference."""

    title: str
    place: str
    litellm: str
    """Behaviour of LiteLLM, for the table of the documentation."""
    we: str
    why: str
    theirs: str = _ANYTHING
    ours: str = _ANYTHING
    wire: str = _ANYTHING

    def explains(self, wire: str, difference: Difference) -> bool:
        pairs = zip((self.wire, self.place, self.theirs, self.ours), (wire, *difference), strict=True)
        return all(re.fullmatch(pattern, text, re.DOTALL) for pattern, text in pairs)


REASONS = (
    Reason(
        "requests that LiteLLM cannot convert",
        "all",
        "raises for some schemas, for the effort `max` at Gemini, for images whose URL it cannot load itself, "
        "and for gpt-5.4 with tools, which needs a library that it does not install",
        "sent",
        "the provider accepts all of them; a proxy that loads URLs of clients exposes its own network",
        theirs=r".*(has no attribute 'split'|Invalid `reasoning_effort`|Unable to fetch image|No module named 'mcp'"
        r"|Missing corresponding tool call).*",
    ),
    Reason(
        "name of the output limit",
        r"field (max_tokens|max_completion_tokens)",
        "`max_tokens`",
        "`max_completion_tokens`; `max_tokens` if the server supports only that",
        "OpenAI and Groq deprecate `max_tokens`, and reasoning models reject it; the number is the same",
        wire="openai_chat",
    ),
    Reason(
        "storage and cache",
        r"field (store|prompt_cache_key|session_id|cache_control\.type)",
        "not sent",
        "`store: false` at OpenAI; a hash of the session as `prompt_cache_key`, at OpenRouter as `session_id`, "
        "with `cache_control` for models that need it",
        "OpenAI's dashboard stores no content, and a session uses the cache that it filled",
        theirs=_NEVER,
    ),
    Reason(
        "identity of the user",
        r"field (user|safety_identifier)",
        "the client's `user_id` unchanged, including account and session, to any server",
        "a hash of it, to OpenAI only",
        "the id is private, and OpenAI asks for a hash",
    ),
    Reason(
        "the client's billing line",
        "system",
        "sent",
        "removed",
        "it is meant for Anthropic, and it changes with every version of the client, which invalidates the "
        "provider's cache",
        theirs=r"x-anthropic-billing-header.*",
    ),
    Reason(
        "several texts of one prompt",
        r"system|user text|tool result|user result",
        "concatenated without a separator",
        "separated by an empty line",
        "`Be brief.Be kind.` differs from the client's input",
        theirs=r"Be brief\.Be kind\.|Why is the sky blue\?In one line\.",
        ours=r"Be brief\.\n\nBe kind\.|Why is the sky blue\?\n\nIn one line\.",
    ),
    Reason(
        "role of the system prompt",
        r"system role|system|user text",
        "`system` for gpt-5; inserted before the first user text for o-series models that it does not list",
        "`developer` for both",
        "OpenAI defines this role for these models; in a user message it would have a user's authority",
        theirs=r"system|S\n\nHello|",
        ours=r"developer|S|Hello",
        wire="openai_chat",
    ),
    Reason(
        "system messages in the middle",
        r"(user|system) text",
        "user text under its own heading, “Operator note …”, whose second part follows the first without a space "
        "for Ollama",
        "kept as system messages at OpenAI; elsewhere a `<system-reminder>` in the user's text",
        "a role is stronger than a heading, and the client itself uses the reminder format",
        theirs=r"(.*Operator note \(not from the user\).*)?",
        ours=r"(.*<system-reminder>.*|Hi|Today is Friday\.|Hurry\.\n\nLast word\.)?",
    ),
    Reason(
        "ids of calls",
        "call id",
        "unchanged; none for Ollama",
        "shortened above 40 characters; nine characters for Mistral; numbered for Kimi k2; sent to Ollama",
        "OpenAI and Mistral reject others, Kimi k2 was trained with its own format",
        theirs=r"toolu_z+|toolu_px\w+|",
        ours=r"call_\w+|[0-9a-z]{9}|functions\.\w+:\d+|toolu_\w+",
    ),
    Reason(
        "results of tools out of order, missing, twice or of no call",
        r"(tool|user) result|call id|user text|signature",
        "sent unchanged",
        "in the order of the calls; a text for a missing result; a surplus result as text",
        "OpenAI and Gemini reject a turn whose results do not match its calls",
        theirs=r"|\?: .*|.*(no such (file|city|station)|A \"quoted\"|17 Csunny|4 Csnow).*|Read: second|Go on\.|"
        r"(call|fc|toolu)_[ab12]",
        ours=r"|Read: (A \"quoted\"|\[tool error\] no such file|\[no result recorded\])|(call|fc|toolu)_[abd12]|"
        r"\[result of an earlier tool call\].*|get_weather: (4 C\n\nsnow|\[tool error\] no such city)|"
        r"weather: \{\"(error|output)\": .*",
    ),
    Reason(
        "failed tools",
        r"(tool|user) result",
        "`is_error` is lost",
        "`[tool error]` before the text; `error` instead of `output` for Gemini",
        "a model that reads an error as a result continues as if the call had succeeded",
        ours=r'.*(\[tool error\] |"error": ).*',
    ),
    Reason(
        "the field of a result at Gemini",
        "user result",
        "`content`",
        "`output`",
        "Google's documentation uses this name for the output of a function",
        theirs=r'\w+: \{"content": .*',
        ours=r'\w+: \{"output": .*',
        wire="gemini",
    ),
    Reason(
        "tool name of a result at Ollama",
        "tool result",
        "only `tool_call_id`",
        "`tool_name`",
        "Ollama's templates use names instead of ids",
        theirs=r"\?: .*",
        wire="ollama",
    ),
    Reason(
        "loaded tools in a result",
        "tool result",
        "an empty result",
        "a text that names the tools",
        "otherwise a client's tool search appears to find no tool",
        ours=r".*Tool available: .*",
    ),
    Reason(
        "pictures and documents in results",
        r"(tool|user) (result|text|picture|file)",
        "a note that they follow, and images without a reference to their result; documents as images",
        "a note in the result, and then all of them with a reference to their call; documents as files",
        "OpenAI rejects a PDF as an image, and several images need references; Ollama's tool messages accept none",
        theirs=r".*\[(Tool returned an image|The following images).*|Read: A PDF:|\?: a\.png:|(data:[a-z/]+pdf)?#\w+|",
        ours=r".*\[(image|document): see the next user message\].*|From the result of tool call .*|#\w+|",
    ),
    Reason(
        "documents",
        r"user (picture|file|text)",
        "a PDF as an image, even by URL; text documents are dropped",
        "a PDF as a file if the model accepts it; otherwise, and by URL, a text that names it; texts remain texts",
        "OpenAI rejects a PDF as an image; a silent loss makes the model guess",
        theirs=r"data:application/pdf#\w+|https://papers\.example/a\.pdf|JVBERi0xLjQK|Sum up\.?|So\?|",
        ours=r".*\[document( omitted)?: .*|Notes\n\nOne\..*|A\nhttps://a\.example\n\n.*|#\w+|",
    ),
    Reason(
        "pictures that a server does not take",
        r"user (picture|text)|tool result",
        "sent, and rejected",
        "replaced by a text",
        "a rejection would end the session, because the image stays in its history",
        theirs=r"https://.*|data:image/(gif|png)(#\w+|;base64,\w+=)|#\w+"
        r"|.*\[(Tool returned an image|The following images).*|What is (this|it)\?|Comparewith|",
        ours=r".*\[image( omitted)?: .*|",
    ),
    Reason(
        "`data:` URLs of another type than an image",
        r"user (picture|text)",
        "sent as an image",
        "replaced by a text that names the type",
        "a provider rejects an image without a type or of the type HTML",
        theirs=r"(data:)?( ?#\w+|text/html,<p>Report</p>)|Look",
        ours=r"\[image omitted: text/plain\]\n\nLook|",
    ),
    Reason(
        "pictures at DeepSeek",
        "user picture",
        "removed: only texts are kept",
        "sent to the models that accept them",
        "newer models support images",
        theirs=_NEVER,
        ours=r"data:image/png;base64,\w+=",
        wire="openai_chat",
    ),
    Reason(
        "reasoning that is not the provider's own",
        r"(assistant|model) (thinking|signed)",
        "`thinking_blocks` unchanged, with signatures, to any server, and the text of all of them",
        "only reasoning of the same provider, in its own field and format",
        "reasoning and signatures of one provider are meaningless to another, and strict servers reject the field",
        theirs=_SOMETHING,
        ours=r"reasoning_details: .*|Mine|Look up|",
    ),
    Reason(
        "Mistral's own reasoning",
        "assistant thinking",
        "removed",
        "returned in `thinking` parts, as Mistral sent it",
        "the model continues its reasoning",
        theirs=_NEVER,
        ours=r"Add them\.",
        wire="openai_chat",
    ),
    Reason(
        "reasoning that a server insists on",
        "assistant thinking",
        "missing if the client has lost it, or sent although reasoning is off",
        "one space, only while the model reasons",
        "DeepSeek and Kimi reject a call without it",
        theirs=r" ?",
        ours=r" ?",
    ),
    Reason(
        "thought signatures of Gemini, also in `extra_content` of Chat Completions",
        "signature",
        "a fixed one in base64; it carries its own signatures at the end of call ids, and cannot decode ours",
        "the model's own, carried through the client and returned only to the address that sent it; a fixed one "
        "only for a call without one",
        "the signature lets the model continue its reasoning; ids also belong to clients and other providers",
    ),
    Reason(
        "names of tools",
        r"tool name|field tool_choice\.function\.name|assistant call|tool result",
        "truncated to 64 characters, invalid characters sent",
        "an alias, by each provider's own rule",
        "OpenAI rejects a dot, Kimi a first character that is not a letter, Ollama's templates a hyphen; Gemini "
        "accepts 128 characters",
        theirs=r'"?(mcp__.*|files\.read.*|7zip|_private|read_the_whole_of_a_file|look-up|a_name_of_more_than_24.*)',
    ),
    Reason(
        "schemas of tools",
        r"tool (parameters|parametersJsonSchema)",
        "unchanged; for Gemini in its older format, which loses `additionalProperties`, `minimum` and more",
        "without `$schema`, `$id` and similar keys, always with `properties`; unsupported keywords as text; "
        "complete for Gemini, as `parametersJsonSchema`",
        "the model receives all useful constraints, and no server rejects the schema",
    ),
    Reason(
        "descriptions of tools",
        "tool description",
        "empty ones are sent; input examples and descriptions of client tools are missing",
        "with both",
        "a model that does not know `bash_20250124` needs its description",
    ),
    Reason(
        "Anthropic's own tools",
        "tool type",
        "their type is sent as the type of a schema",
        "functions with the schema that the client expects",
        "no other provider supports these types",
    ),
    Reason(
        "strict tools",
        "tool strict",
        "sent to all servers",
        "sent if the schema follows OpenAI's rules and the server supports the field",
        "other schemas are rejected",
        theirs="true",
        ours=_NEVER,
    ),
    Reason(
        "tools that only Anthropic runs",
        r"tool|field tool(Config|s)\..*",
        "offered as functions that no component runs, and for a forced search with an undefined name",
        "the provider's own search, fetch and code execution if it has them, otherwise the proxy's search and "
        "fetch; tools without a counterpart are removed with a note",
        "a call without a result ends the turn",
        wire="gemini",
    ),
    Reason(
        "choice of a tool",
        r"field (tool_choice.*|parallel_tool_calls)|user text|tool",
        "`tool_choice` unchanged, or dropped if a provider rejects it; parallel calls cannot be disabled",
        "the same, but if a provider rejects it a user text asks for the call; Ollama is offered only the "
        "permitted tools; `parallel_tool_calls: false`",
        "the client's choice applies as far as possible",
        theirs=r'"(function|required|Read)"|get_weather|Read|Look|Look at a\.txt|Hello.*|',
        ours=r'"auto"|false|.*Call (one of the tools|the tool \w+) now\.|',
    ),
    Reason(
        "reasoning effort",
        r"field (reasoning_effort|reasoning\.effort|reasoning_format|include_reasoning|thinking\.\w+|think|"
        r"generationConfig\.thinkingConfig\.\w+)",
        "`reasoning_effort` from a budget, for providers that it lists; `output_config.effort` only with "
        "adaptive thinking",
        "the requested level in each provider's own format; thoughts requested if they can be shown; no field if "
        "the model is not described or has rejected it",
        "Claude Code sends `effort`; each provider has its own switch",
    ),
    Reason(
        "output limit with thoughts at Gemini",
        r"field generationConfig\.maxOutputTokens",
        "the client's limit",
        "the limit plus the budget for thoughts",
        "Gemini counts thoughts as output: long ones would leave no tokens for the reply",
    ),
    Reason(
        "replies with a schema",
        r"field (response_format\..*|format|generationConfig\.response\w+)|system",
        "`json_schema`, strict, to all servers; for Gemini and Ollama even together with tools",
        "`json_schema`, strict if it fits; `json_object` or a text in the system prompt if the server does not "
        "accept it, or not together with tools",
        "Gemini models before 3 and Ollama call no tools while a schema applies; DeepSeek, Groq and Z.ai reject it",
        theirs=r'"structured_output"|"json_schema"|true|\{.*\}|"application/json"|Be brief\..*|Name it\.|',
        ours=r'"output"|"json_object"|false|\{.*\}|.*JSON Schema:\n.*|',
    ),
    Reason(
        "stop sequences, and servers that only stream",
        r"field (stop|stream|stream_options\.include_usage|options\.stop|generationConfig\.stopSequences)",
        "sent; streamed if the client streams",
        "detected by the proxy in a stream; the client receives its reply in the requested form",
        "any number and length, and the reply names the sequence, which no other provider does",
        theirs=r"\[.*\]|false|",
        ours=r"true|",
    ),
    Reason(
        "usage of a stream",
        r"field (stream_options\.include_usage|usage\.include)",
        "requested with a separate field at OpenRouter; not at Groq, Kimi, DeepSeek and others",
        "`stream_options` wherever it is supported",
        "without it the client's counts are estimates",
    ),
    Reason(
        "sampling",
        r"field (temperature|top_k|generationConfig\.(temperature|topK))",
        "an unrequested `temperature: 1` to Gemini 3; `top_k` to OpenAI; `temperature` to models that reject it",
        "the client's values, if the model accepts them",
        "OpenAI has no `top_k`; reasoning models fix the temperature",
        ours=_NEVER,
    ),
    Reason(
        "arguments of calls at Z.ai",
        "field tool_stream",
        "complete, at the end of the call",
        "`tool_stream: true`",
        "a long file arrives while the model writes it",
        theirs=_NEVER,
        ours="true",
        wire="openai_chat",
    ),
    Reason(
        "service tier",
        "field service_tier",
        "Anthropic's value `standard_only`",
        "`default` to OpenAI, no field elsewhere",
        "OpenAI rejects the other value",
    ),
    Reason(
        "a last message of the assistant",
        r"user text|assistant other",
        "unchanged",
        "`prefix` or `partial` if the server can continue it; elsewhere a user text asks for continuation",
        "most providers reply to the message instead of continuing it",
        theirs=_NEVER,
        ours=r"prefix: true|partial: true|\.|Continue exactly from the end of your last message\.",
    ),
    Reason(
        "a text after results at Mistral",
        "assistant text",
        "follows the result",
        "after a short assistant message",
        "Mistral rejects a user message after a tool message",
        theirs=_NEVER,
        ours=r"Understood\.",
    ),
    Reason(
        "the window of Ollama",
        r"field (options\.num_ctx|truncate|shift|keep_alive)",
        "not sent, so Ollama truncates the prompt silently",
        "the model's own window; no truncation; the user's `keep_alive`",
        "an agent that loses the beginning of its conversation forgets its task",
        theirs=_NEVER,
        wire="ollama",
    ),
    Reason(
        "Claude Code's text for Anthropic about safety",
        r"field (options\.)?safeguards",
        "forwarded",
        "removed",
        "it contains paths of the client's machine, and is meant for Anthropic",
        ours=_NEVER,
    ),
    Reason(
        "Claude Code's placeholder for deferred tools",
        "tool",
        "offered",
        "removed",
        "it has no function, so no model should call it",
        theirs="DeferredToolPlaceholder",
        ours=_NEVER,
    ),
    Reason(
        "system messages in the middle",
        r"system text|user text",
        "the user's text, after a note that an operator wrote it",
        "a system message in its place, or a `<system-reminder>` if the server accepts none",
        "a model treats its system prompt differently from user text",
        theirs=r"|.*Operator note \(not from the user\).*",
        ours=r"(# Environment|# Surroundings|Tools to load|Plan mode is active|## Exited Plan Mode).*"
        r"|The day has changed\.|<local-command-stdout>.*|Ask the web about the quince\."
        r"|This session is being continued.*",
    ),
    Reason(
        "results in another order than their calls",
        r"call id|(tool|user) (result|picture)",
        "in the order in which they arrived",
        "in the order of their calls",
        "some providers match them by position",
        theirs=r"|toolu_\w+|Read: .*|Bash: Exit code 1|image/png #\w+",
        ours=r"|toolu_\w+|Read: (\{\"output\": \".*\"\}|A document was read\..*)|image/png #\w+",
    ),
    Reason(
        "documents in results",
        r"tool (result|picture)|user text|user picture",
        "removed, or sent as an image",
        "a document after the results if the server accepts one; otherwise a text that mentions it",
        "the model is informed about content that it cannot read",
        theirs=r"|Look|Read: PDF file read.*|JVBER.*|iVBOR.*",
        ours=r"|.*\[document(:| omitted:) .*|iVBOR.*",
    ),
    Reason(
        "blocks that only Anthropic has, and results of no call",
        r"user text|assistant text|tool result|call id|tool",
        "removed, or sent unchanged",
        "replaced by a short text; a call without a result gets one that states this",
        "the model receives what the client wrote",
        theirs=r"|Look at all of it\.|I read it\.|read: Torn:|toolu_9|.*Operator note.*And\?",
        ours=r".*\[image file file_1 not available\].*|\[find: deed\].*|read: \[no result recorded\]|toolu_2|calc"
        r"|.*\[result of an earlier tool call\] of no call.*",
    ),
    Reason(
        "a summary that replaces earlier messages",
        "user text",
        "the earlier messages, without the summary",
        "the summary instead of them",
        "this is why the client sends it",
        theirs=r"Long ago.*",
        ours=r"They said hello\..*",
    ),
    Reason(
        "server tools over Chat Completions and at Ollama",
        r"tool|field tool_choice.*|field (compound_custom|search_settings)\..*",
        "functions",
        "the provider's own tools if it has them; otherwise functions that the proxy runs, or none",
        "the client cannot run a call of them",
        theirs=r"|web_fetch|code_execution|calc|\"web_search\"",
        ours=r"|(openrouter:)?web_search|\"web_search\"|\"function\"|\"required\"|\[.*\]",
    ),
    Reason(
        "a schema with streaming at Groq",
        r"tool|field tool_choice.*",
        "removed",
        "the model is forced to call a tool whose arguments are the reply",
        "Groq combines its schemas with neither streaming nor tools",
        theirs=_NEVER,
        ours=r"output|\"output\"|\"function\"",
    ),
    Reason(
        "a forced tool at Kimi, which reasons",
        "user text",
        "its own text, or nothing",
        "a text that asks for the call; K3 is forced by `tool_choice`",
        "earlier Kimi models cannot be forced while they reason",
        ours=r".*Call (one of the tools|the tool \w+) now\.|Hello",
    ),
    Reason(
        "sampling at Kimi",
        "field top_p",
        "sent",
        "removed with a note",
        "its newer models accept one value only, and reject others",
        ours=_NEVER,
    ),
)
