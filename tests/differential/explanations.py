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
        """Return whether this is the reason for a difference."""
        pairs = zip((self.wire, self.place, self.theirs, self.ours), (wire, *difference), strict=True)
        return all(re.fullmatch(pattern, text, re.DOTALL) for pattern, text in pairs)


REASONS = (
    Reason(
        "requests that it cannot make",
        "all",
        "raises: at some schemas and at the effort `max` for Gemini, at pictures whose address it cannot load itself, "
        "and at gpt-5.4 with tools, for which it wants a library that does not come with it",
        "sent",
        "the provider takes all of them; a proxy that loads what a client names reaches into its own network",
        theirs=r".*(has no attribute 'split'|Invalid `reasoning_effort`|Unable to fetch image|No module named 'mcp'"
        r"|Missing corresponding tool call).*",
    ),
    Reason(
        "name of the output limit",
        r"field (max_tokens|max_completion_tokens)",
        "`max_tokens`",
        "`max_completion_tokens`; `max_tokens` where the server knows only that",
        "OpenAI and Groq deprecate `max_tokens`, and reasoning models refuse it; the number is the same",
        wire="openai_chat",
    ),
    Reason(
        "storage and cache",
        r"field (store|prompt_cache_key|session_id|cache_control\.type)",
        "nothing",
        "`store: false` at OpenAI; a hash of the session as `prompt_cache_key`, at OpenRouter as `session_id`, with "
        "`cache_control` for models that need it",
        "nothing is kept for OpenAI's dashboard, and a session meets the cache that it filled",
        theirs=_NEVER,
    ),
    Reason(
        "who the user is",
        r"field (user|safety_identifier)",
        "the client's `user_id` as it is, with account and session in it, to any server",
        "a hash of it, to OpenAI only",
        "the id is private, and OpenAI asks for a hash",
    ),
    Reason(
        "the client's billing line",
        "system",
        "sent",
        "left out",
        "it is for Anthropic, and it changes with every version of the client, which empties the provider's cache",
        theirs=r"x-anthropic-billing-header.*",
    ),
    Reason(
        "several texts of one prompt",
        r"system|user text|tool result|user result",
        "joined without anything between them",
        "joined by an empty line",
        "`Be brief.Be kind.` is not what the client said",
        theirs=r"Be brief\.Be kind\.|Why is the sky blue\?In one line\.",
        ours=r"Be brief\.\n\nBe kind\.|Why is the sky blue\?\n\nIn one line\.",
    ),
    Reason(
        "role of the system prompt",
        r"system role|system|user text",
        "`system` for gpt-5; put before the first user text for the o-series where it does not know the model",
        "`developer` for both",
        "the role that OpenAI gives these models; in a user's text it would be the user's word",
        theirs=r"system|S\n\nHello|",
        ours=r"developer|S|Hello",
        wire="openai_chat",
    ),
    Reason(
        "system messages in the middle",
        r"(user|system) text",
        "user text under a heading of its own, “Operator note …”, whose second part joins the first without a space "
        "for Ollama",
        "kept as system messages at OpenAI; elsewhere a `<system-reminder>` in the user's text",
        "the role says more than a heading, and the reminder is the form that the client itself uses",
        theirs=r"(.*Operator note \(not from the user\).*)?",
        ours=r"(.*<system-reminder>.*|Hi|Today is Friday\.|Hurry\.\n\nLast word\.)?",
    ),
    Reason(
        "ids of calls",
        "call id",
        "as the client sent them; none for Ollama",
        "shortened above 40 characters; nine signs for Mistral; counted for Kimi k2; sent to Ollama",
        "OpenAI and Mistral refuse others, Kimi k2 was trained on its own",
        theirs=r"toolu_z+|toolu_px\w+|",
        ours=r"call_\w+|[0-9a-z]{9}|functions\.\w+:\d+|toolu_\w+",
    ),
    Reason(
        "results of tools out of order, missing, twice or of no call",
        r"(tool|user) result|call id|user text|signature",
        "sent as they came",
        "in the order of the calls, a missing one said to be missing, one too many as text",
        "OpenAI and Gemini refuse a turn whose results do not answer its calls",
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
        "a model that takes an error for a result goes on as if nothing had happened",
        ours=r'.*(\[tool error\] |"error": ).*',
    ),
    Reason(
        "the field of a result at Gemini",
        "user result",
        "`content`",
        "`output`",
        "the word of Google's own documentation for what a function gave",
        theirs=r'\w+: \{"content": .*',
        ours=r'\w+: \{"output": .*',
        wire="gemini",
    ),
    Reason(
        "whose result it is at Ollama",
        "tool result",
        "nothing but `tool_call_id`",
        "`tool_name`",
        "Ollama's templates know names, not ids",
        theirs=r"\?: .*",
        wire="ollama",
    ),
    Reason(
        "loaded tools in a result",
        "tool result",
        "an empty result",
        "a text that names the tools",
        "a client that searches for tools would see its search find nothing",
        ours=r".*Tool available: .*",
    ),
    Reason(
        "pictures and documents in results",
        r"(tool|user) (result|text|picture|file)",
        "a note that they follow, and pictures without saying whose they are; documents as pictures",
        "a note in the result, and then all of them under the call that they belong to; documents as files",
        "OpenAI refuses a PDF as a picture, and several pictures need their owners; Ollama's tool messages take none",
        theirs=r".*\[(Tool returned an image|The following images).*|Read: A PDF:|\?: a\.png:|(data:[a-z/]+pdf)?#\w+|",
        ours=r".*\[(image|document): see the next user message\].*|From the result of tool call .*|#\w+|",
    ),
    Reason(
        "documents",
        r"user (picture|file|text)",
        "a PDF as a picture, even by address; texts and documents in words are dropped",
        "a PDF as a file where the model reads them; else, and by address, a text that names it; texts stay texts",
        "OpenAI refuses a PDF as a picture; what is dropped unseen makes the model guess",
        theirs=r"data:application/pdf#\w+|https://papers\.example/a\.pdf|JVBERi0xLjQK|Sum up\.?|So\?|",
        ours=r".*\[document( omitted)?: .*|Notes\n\nOne\..*|A\nhttps://a\.example\n\n.*|#\w+|",
    ),
    Reason(
        "pictures that a server does not take",
        r"user (picture|text)|tool result",
        "sent, to be refused",
        "a text in their place",
        "a refusal would end the session, because the picture stays in its history",
        theirs=r"https://.*|data:image/(gif|png)(#\w+|;base64,\w+=)|#\w+"
        r"|.*\[(Tool returned an image|The following images).*|What is (this|it)\?|Comparewith|",
        ours=r".*\[image( omitted)?: .*|",
    ),
    Reason(
        "pictures at DeepSeek",
        "user picture",
        "left out: it reduces content to its texts",
        "sent to the models that take them",
        "the newer models see",
        theirs=_NEVER,
        ours=r"data:image/png;base64,\w+=",
        wire="openai_chat",
    ),
    Reason(
        "reasoning that is not the provider's own",
        r"(assistant|model) (thinking|signed)",
        "`thinking_blocks` as the client has them, signatures and all, to any server, and the text of all of them",
        "only what the same provider gave, in its own field and form; else nothing",
        "one provider's reasoning and signatures mean nothing to another, and strict servers refuse the field",
        theirs=_SOMETHING,
        ours=r"reasoning_details: .*|Mine|Look up|",
    ),
    Reason(
        "Mistral's own reasoning",
        "assistant thinking",
        "left out",
        "returned in `thinking` parts, as Mistral gave it",
        "the model goes on with its thoughts",
        theirs=_NEVER,
        ours=r"Add them\.",
        wire="openai_chat",
    ),
    Reason(
        "reasoning that a server insists on",
        "assistant thinking",
        "missing where the client has lost it, or sent where the model was told not to reason",
        "one space, only while the model reasons",
        "DeepSeek and Kimi refuse a call without it",
        theirs=r" ?",
        ours=r" ?",
    ),
    Reason(
        "thought signatures of Gemini, also in `extra_content` of Chat Completions",
        "signature",
        "a fixed one, in base64: its own way to carry them, at the end of the calls' ids, reads none of ours",
        "the model's own, carried through the client and returned only to the address that sent it; "
        "a fixed one only for a call that has none",
        "the signature is what lets the model go on with its thoughts, and ids are clients' and other providers' too",
    ),
    Reason(
        "names of tools",
        r"tool name|field tool_choice\.function\.name|assistant call|tool result",
        "cut after 64 characters, other signs sent as they are",
        "an alias, by each provider's own rule",
        "OpenAI refuses a dot, Kimi a first sign that is no letter, Ollama's templates a hyphen; Gemini takes 128",
        theirs=r'"?(mcp__.*|files\.read.*|7zip|_private|read_the_whole_of_a_file|look-up|a_name_of_more_than_24.*)',
    ),
    Reason(
        "schemas of tools",
        r"tool (parameters|parametersJsonSchema)",
        "as the client sent them; for Gemini in its old form, which loses `additionalProperties`, `minimum` and more",
        "without `$schema`, `$id` and the like, `properties` always there; what a server does not take said in words; "
        "whole for Gemini, as `parametersJsonSchema`",
        "nothing that the model could use is lost, and nothing is refused",
    ),
    Reason(
        "descriptions of tools",
        "tool description",
        "empty ones sent; examples of input and what a client's own tools do are missing",
        "with both",
        "a model that knows no `bash_20250124` must be told what it does",
    ),
    Reason(
        "Anthropic's own tools",
        "tool type",
        "their type is sent as if it were a schema's",
        "functions with the schema that the client expects",
        "no other provider knows the types",
    ),
    Reason(
        "strict tools",
        "tool strict",
        "sent to all",
        "sent where the schema fits OpenAI's rules and the server knows the word",
        "a schema that does not fit is refused whole",
        theirs="true",
        ours=_NEVER,
    ),
    Reason(
        "tools that only Anthropic runs",
        r"tool|field tool(Config|s)\..*",
        "offered as functions that nobody answers, for a forced search by a name that is not there",
        "the provider's own search, fetch and code execution where it has them, the proxy's search and fetch where it "
        "has not; what has no counterpart is left out and noted",
        "a call that nobody answers ends the turn",
        wire="gemini",
    ),
    Reason(
        "which tool to call",
        r"field (tool_choice.*|parallel_tool_calls)|user text|tool",
        "`tool_choice` as asked, or dropped where a provider refuses it; parallel calls cannot be switched off",
        "the same, but where a provider refuses it a user text asks for the call; Ollama is offered only what it may "
        "call; `parallel_tool_calls: false`",
        "what the client wants holds as far as it can",
        theirs=r'"(function|required|Read)"|get_weather|Read|Look|Look at a\.txt|Hello.*|',
        ours=r'"auto"|false|.*Call (one of the tools|the tool \w+) now\.|',
    ),
    Reason(
        "how much to reason",
        r"field (reasoning_effort|reasoning\.effort|reasoning_format|include_reasoning|thinking\.\w+|think|"
        r"generationConfig\.thinkingConfig\.\w+)",
        "`reasoning_effort` from a budget, for providers that it knows; `output_config.effort` only beside adaptive "
        "thinking",
        "the level that the client asks for, in each provider's own form; thoughts asked for where they can be shown; "
        "nothing where the model was not described or has learned to refuse",
        "Claude Code says `effort`; each provider has its own switch",
    ),
    Reason(
        "room for thoughts at Gemini",
        r"field generationConfig\.maxOutputTokens",
        "the client's limit",
        "that and the budget for thoughts",
        "Gemini counts thoughts as output: a long one would leave no room for the answer",
    ),
    Reason(
        "replies with a schema",
        r"field (response_format\..*|format|generationConfig\.response\w+)|system",
        "`json_schema`, strict, to all; for Gemini and Ollama even beside tools",
        "`json_schema`, strict where it fits; `json_object` or words in the system prompt where the server does not "
        "take it, or not beside tools",
        "a model of Gemini before 3 and Ollama call no tools while a schema holds; DeepSeek, Groq and Z.ai refuse it",
        theirs=r'"structured_output"|"json_schema"|true|\{.*\}|"application/json"|Be brief\..*|Name it\.|',
        ours=r'"output"|"json_object"|false|\{.*\}|.*JSON Schema:\n.*|',
    ),
    Reason(
        "stop sequences, and servers that only stream",
        r"field (stop|stream|stream_options\.include_usage|options\.stop|generationConfig\.stopSequences)",
        "sent; streamed as the client asks",
        "found here, in a stream; the client still gets its reply as it asked",
        "any number and length, and the reply says which one it was, which no other provider does",
        theirs=r"\[.*\]|false|",
        ours=r"true|",
    ),
    Reason(
        "usage of a stream",
        r"field (stream_options\.include_usage|usage\.include)",
        "asked for by a way of its own at OpenRouter; not at Groq, Kimi, DeepSeek and others",
        "`stream_options` wherever it is known",
        "without it the client's counts are guesses",
    ),
    Reason(
        "sampling",
        r"field (temperature|top_k|generationConfig\.(temperature|topK))",
        "`temperature: 1` that nobody asked for to Gemini 3; `top_k` to OpenAI; `temperature` to models that refuse it",
        "what the client asks for, where the model takes it",
        "OpenAI knows no `top_k`; reasoning models fix the temperature",
        ours=_NEVER,
    ),
    Reason(
        "arguments of calls at Z.ai",
        "field tool_stream",
        "whole, at the end of the call",
        "`tool_stream: true`",
        "a long file that the model writes arrives as it is written",
        theirs=_NEVER,
        ours="true",
        wire="openai_chat",
    ),
    Reason(
        "service tier",
        "field service_tier",
        "Anthropic's word `standard_only`",
        "`default` to OpenAI, nothing elsewhere",
        "OpenAI refuses the other word",
    ),
    Reason(
        "a last message of the assistant's",
        r"user text|assistant other",
        "left as it is",
        "`prefix` or `partial` where the server goes on from it; elsewhere a user text asks for that",
        "most providers answer the message instead of going on",
        theirs=_NEVER,
        ours=r"prefix: true|partial: true|\.|Continue exactly from the end of your last message\.",
    ),
    Reason(
        "a text after results at Mistral",
        "assistant text",
        "follows the result",
        "after a short answer of the assistant's",
        "Mistral refuses a user after a tool",
        theirs=_NEVER,
        ours=r"Understood\.",
    ),
    Reason(
        "the window of Ollama",
        r"field (options\.num_ctx|truncate|shift|keep_alive)",
        "not said, so Ollama cuts what does not fit, without a word",
        "the model's own window; no cutting; the user's `keep_alive`",
        "an agent that loses the beginning of its conversation forgets its task",
        theirs=_NEVER,
        wire="ollama",
    ),
    Reason(
        "what Claude Code tells Anthropic about safety",
        r"field (options\.)?safeguards",
        "passed on",
        "left out",
        "it holds paths of the client's machine, and is between the client and Anthropic",
        ours=_NEVER,
    ),
    Reason(
        "Claude Code's placeholder for tools that wait",
        "tool",
        "offered",
        "left out",
        "it does nothing, so no model should call it",
        theirs="DeferredToolPlaceholder",
        ours=_NEVER,
    ),
    Reason(
        "system messages in the middle",
        r"system text|user text",
        "the user's text, after a note that an operator wrote it",
        "a system message in its place, or a `<system-reminder>` where the server takes none",
        "a model follows its system prompt otherwise than its user",
        theirs=r"|.*Operator note \(not from the user\).*",
        ours=r"(# Environment|# Surroundings|Tools to load|Plan mode is active|## Exited Plan Mode).*"
        r"|The day has changed\.|<local-command-stdout>.*|Ask the web about the quince\."
        r"|This session is being continued.*",
    ),
    Reason(
        "results that came in another order than their calls",
        r"call id|(tool|user) (result|picture)",
        "in the order in which they came",
        "in the order of their calls",
        "some providers pair them by position",
        theirs=r"|toolu_\w+|Read: .*|Bash: Exit code 1|image/png #\w+",
        ours=r"|toolu_\w+|Read: (\{\"output\": \".*\"\}|A document was read\..*)|image/png #\w+",
    ),
    Reason(
        "documents in results",
        r"tool (result|picture)|user text|user picture",
        "left out, or said as a picture",
        "a document where the server takes one, after the results; else a text that says that one was there",
        "the model is told what it cannot see",
        theirs=r"|Look|Read: PDF file read.*|JVBER.*|iVBOR.*",
        ours=r"|.*\[document(:| omitted:) .*|iVBOR.*",
    ),
    Reason(
        "blocks that only Anthropic has, and results of no call",
        r"user text|assistant text|tool result|call id|tool",
        "left out, or sent as they came",
        "a short text in their place; a call without result gets one that says so",
        "what the client wrote should reach the model",
        theirs=r"|Look at all of it\.|I read it\.|read: Torn:|toolu_9|.*Operator note.*And\?",
        ours=r".*\[image file file_1 not available\].*|\[find: deed\].*|read: \[no result recorded\]|toolu_2|calc"
        r"|.*\[result of an earlier tool call\] of no call.*",
    ),
    Reason(
        "a summary that stands for earlier messages",
        "user text",
        "the earlier messages, without it",
        "the summary in their place",
        "that is what the client sent it for",
        theirs=r"Long ago.*",
        ours=r"They said hello\..*",
    ),
    Reason(
        "the same over Chat Completions and at Ollama",
        r"tool|field tool_choice.*|field (compound_custom|search_settings)\..*",
        "functions",
        "the provider's own tools where it has such; else functions that the proxy runs, or none",
        "a call of them would come back to a client that cannot answer it",
        theirs=r"|web_fetch|code_execution|calc|\"web_search\"",
        ours=r"|(openrouter:)?web_search|\"web_search\"|\"function\"|\"required\"|\[.*\]",
    ),
    Reason(
        "a schema beside streaming at Groq",
        r"tool|field tool_choice.*",
        "left out",
        "a tool is forced whose arguments are the reply",
        "Groq combines its schemas with neither streaming nor tools",
        theirs=_NEVER,
        ours=r"output|\"output\"|\"function\"",
    ),
    Reason(
        "a forced tool at Kimi, which reasons",
        "user text",
        "a text of its own, or nothing",
        "a text that asks for the call; K3 is forced by `tool_choice`",
        "earlier models of Kimi refuse to be forced while they reason",
        ours=r".*Call (one of the tools|the tool \w+) now\.|Hello",
    ),
    Reason(
        "sampling at Kimi",
        "field top_p",
        "sent",
        "left out, and noted",
        "its newer models take one value only, and refuse the others",
        ours=_NEVER,
    ),
)
