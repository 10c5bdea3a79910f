"""How models deviate inside one language; the defaults are what Google does for its newest models (3 and later).

What a provider's row must say: `carry_tag`, and where its API lacks something `search_with_functions`. What model rules
must say, oldest last: `thinking` with its budgets, `says_sampling`, `needs_signatures`, `says_call_ids`,
`results_hold_media`, `json_with_functions`, `server_tools_alone`, `file_urls` and, before 2.0, `schema_style`.
"""

from typing import Literal

from msgspec import Struct

from anthropic_proxy.messages.prepare import Kind


class Dialect(Struct, frozen=True, kw_only=True, cache_hash=True):
    """One provider's, and by model rules one model's, way of speaking `generateContent`."""

    carry_tag: str = "gem"
    """First word of the reasoning carry: `px1.<tag>.…`; only a carry with this very tag is read back.

    AI Studio and Vertex AI need two: neither takes the other's signatures.
    Proven by: golden/gemini/foreign_signature.
    """
    streams_always: bool = False
    """Whether to stream upstream even where the client does not.

    4 and later end a reply that is not streamed at 32,768 tokens, a streamed one at 65,536 (developer guide of
    Gemini 4 Argon, "Long decode", 2026-11).
    Proven by: golden/gemini/continuation.
    """
    continues: bool = False
    """Whether a reply that meets the limit of one request goes on in another that carries its token.

    4 and later (developer guide of Gemini 4 Argon, "Long decode", 2026-11). Proven by: tests/test_turns.py.
    """
    continuation_version: str = ""
    """Version of the API that takes the token, where the usual one does not; Vertex AI: `/v1beta1`.

    Proven by: tests/test_turns.py.
    """
    tool_name_pattern: str = r"[a-zA-Z_][a-zA-Z0-9_.:-]*"
    """What a function's name must match (reference of FunctionDeclaration). Proven by: golden/gemini/long_names."""
    tool_name_length: int = 128
    """Characters that a function's name may have. Proven by: golden/gemini/long_names."""
    thinking: Literal["none", "budget", "level"] = "level"
    """How an effort is said: `thinkingLevel` (3 and later), `thinkingBudget` (2.5) or, to 2.0 and before, not at all.

    Both in one request are refused, and either is by models that do not think.
    Proven by: golden/gemini/thinking_budget, golden/gemini/no_thinking.
    """
    least_budget: int = 128
    """Tokens of the smallest budget that is not 0 (2.5-flash-lite: 512). Proven by: golden/gemini/client_budget."""
    most_budget: int = 24_576
    """Tokens of the largest budget (2.5-pro: 32,768). Proven by: golden/gemini/thinking_budget."""
    effort_names: tuple[tuple[str, str], ...] = ()
    """Our effort → the one that is said in its place, where a refusal taught so.

    Proven by: tests/test_healing_gemini.py.
    """
    says_sampling: bool = False
    """Whether `temperature`, `topP` and `topK` are sent: 3 and later loop below 1.0, or ignore or refuse them.

    Proven by: golden/gemini/thinking_budget (sent), golden/gemini/text (not sent).
    """
    needs_signatures: bool = True
    """Whether the first call of every step must carry a thought signature.

    3 and later answer 400 without one in the current turn. Where the history has none that fits, the documented
    placeholder is sent, and stays in later turns, so that the provider's cache knows the conversation again;
    2.5 takes signatures but wants no placeholder.
    Proven by: golden/gemini/foreign_signature.
    """
    replays_signatures: bool = True
    """Whether signatures of the history are given back; False only where they were refused.

    Proven by: tests/test_healing_gemini.py.
    """
    placeholder: Literal["text", "base64"] = "text"
    """How the placeholder for a signature is spelled: the field holds bytes, and clients send either form.

    Proven by: tests/test_healing_gemini.py.
    """
    says_call_ids: bool = True
    """Whether calls and their results carry ids; else their order says what belongs together, which is kept anyhow.

    Every server of 3 and later knows them (discovery document of Vertex AI, 2026-09-21); for older models other clients
    leave them out, because Vertex AI refused the field as unknown until then.
    Proven by: golden/gemini/tool_result_image (sent), golden/gemini/tool_result_image_beside (not sent).
    """
    results_hold_media: bool = True
    """Whether pictures and PDFs stand inside `functionResponse.parts` (3 and later) or beside the response.

    Proven by: golden/gemini/tool_result_image, golden/gemini/tool_result_image_beside.
    """
    json_with_functions: bool = True
    """Whether `responseJsonSchema` may stand beside tools; else the schema is asked for in words (before 3).

    Proven by: golden/gemini/json_output_in_words.
    """
    server_tools: tuple[Kind, ...] = ("web_search", "web_fetch", "code_execution")
    """Kinds of server tools that it runs itself: `googleSearch`, `urlContext` and `codeExecution`.

    Proven by: golden/gemini/search_beside_functions, golden/gemini/without_search.
    """
    server_tools_alone: bool = False
    """Whether they may not stand beside functions: before 3 that is refused.

    Proven by: golden/gemini/search_left_out.
    """
    search_with_functions: Literal["plain", "announced"] = "announced"
    """How search and URL context stand beside functions, and whether the answer tells of a search before its text.

    AI Studio wants `includeServerSideToolInvocations` with them ("announced"), Vertex AI knows no such field ("plain").
    Proven by: golden/gemini/search_beside_functions, golden/gemini/vertex.
    """
    search_exclusions: bool = False
    """Whether a search can be told domains to leave out; `excludeDomains` is Vertex AI's alone (`GoogleSearch` of the
    official SDK google-genai 3.3). Else their pages are left out of what it found.

    Proven by: golden/gemini/vertex_search.
    """
    schema_style: Literal["json_schema", "lowered"] = "json_schema"
    """`parametersJsonSchema`, or the OpenAPI subset in `parameters` for models before 2.0.

    Proven by: golden/gemini/schema, golden/gemini/schema_lowered.
    """
    file_urls: bool = True
    """Whether any public URL may be a file's place ("File input methods", 2026-01; not 2.0 and before).

    False: only the provider's own storage is referred to, other URLs become text.
    Proven by: golden/gemini/image_and_pdf, golden/gemini/image_url_named.
    """
