"""The server tools of the Messages API: tools that the provider or the proxy runs, not the client. Each is one row.

A row has what each stage needs to know about the tool: how a request offers it and how the model sees it, what its
results are called and how another provider reads them, what counts as tokens and as a text, and what the proxy needs to
run it. The stages read the row and have no list of kinds. `exchange/tool_loop/runner.py` has the functions that run the
tools of the proxy. A provider states in its dialect which kinds it runs (`server_tools`).

A tool that only providers run has a row without `functions`. The blocks of its results are unknown blocks, which other
providers receive as text. Source: the types of the official SDK `anthropic` 2.10, read 2026-11.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Literal, get_args

from msgspec import Struct

from anthropic_proxy.engine.messages.server_blocks import Content, decode_passage, error_content

ServerToolKind = Literal["web_search", "web_fetch", "tool_search", "code_execution", "mcp_toolset", "advisor"]
"""Kind of a server tool, without the version of its type: `web_search`."""
CallType = Literal["server_tool_use", "mcp_tool_use"]
"""Type of the content block of a call of a server tool."""
UsageCounter = Literal["web_search_requests", "web_fetch_requests"]
"""Field of `Usage`, and of `server_tool_use` in the usage of a reply, that counts the calls of a server tool."""
ProxyService = Literal["search", "fetch"]
"""What the proxy needs to run a tool: a search service (`SEARCH_URL`), or leave to fetch pages (`FETCH_URLS`)."""


class Function(Struct, frozen=True, kw_only=True):
    """Function as which a model sees a server tool that the proxy runs. Its name is that of the tool in the request."""

    description: str
    properties: Mapping[str, Mapping[str, str]]
    """Argument → its JSON Schema."""
    required: tuple[str, ...]


class ServerTool(Struct, frozen=True, kw_only=True):
    kind: ServerToolKind
    title: str
    """Name for people."""
    type_prefix: str
    """Beginning of the types of the tool in `tools`, before the version."""
    names: tuple[str, ...]
    """Names of the tool in its calls. The types of its results are these names with `_tool_result`, unless
    `result_names` differs."""
    not_texts: Mapping[str, tuple[str, ...]]
    """Type of an object in its results or citations → fields of it that inspectors do not read, because they have no
    text. The id of the call is never read."""
    is_in_dashboard: bool
    """True if the table of features on the page Providers shows for each model who runs the tool. False if no model
    lacks it, or only Claude has it. The page `docs/guide/matrix.md` has a row for each kind, whatever this says."""
    result_names: tuple[str, ...] = ()
    """Names in the types of its results. Empty: `names`."""
    call_type: CallType = "server_tool_use"
    functions: Mapping[str, Function] = {}
    """Beginning of the type of the tool → function that the model sees if the proxy runs the tool; the first that
    applies. Empty: the proxy cannot run it."""
    service: ProxyService | None = None
    """What the proxy needs to run it. None: nothing."""
    is_offered_without_service: bool = False
    """True if the proxy offers the tool without its service too. Each call then returns an error."""
    as_text: Callable[[Any], str] | None = None
    """Returns the text for another provider in place of the content of a result, which is no error. None: all texts of
    the content."""
    empty_text: str = ""
    """Text in place of a result without a text. "": none."""
    has_document: bool = False
    """True if the content of a result is one document, in the field `content` of an object with its `url`."""
    has_pages: bool = False
    """True if results have addresses of pages, which the model may fetch then."""
    counter: UsageCounter | None = None
    """Count of its successful calls in the usage of a reply. None: it is not counted."""
    limit_error: str = "max_uses_exceeded"
    """`error_code` of a call above the limit `max_uses` of the client."""
    error_has_message: bool = False
    """True if an error of the tool has a field for a text."""
    is_capability: bool = False
    """True if the list of models states whether a model has the tool, as Anthropic's list does."""

    @property
    def result_types(self) -> tuple[str, ...]:
        return tuple(f"{name}_tool_result" for name in self.result_names or self.names)

    def error_content(self, code: str, message: str | None = None) -> Content:
        """Return the content of a result with an error."""
        content = error_content(self.kind, code)
        return {**content, "error_message": message} if self.error_has_message else content

    def find_function(self, tool_type: str) -> Function:
        return next(function for prefix, function in self.functions.items() if tool_type.startswith(prefix))


NOTHING_LISTED = "[no results listed]"
"""Text in place of a web search without results. The provider may have found some without listing them: Gemini has them
in its signature, OpenAI lists them only on request."""


def _search_results_as_text(content: Any) -> str:
    if isinstance(content, dict):
        return "[web_search failed: unknown error]"
    results = [result for result in content if isinstance(result, dict)] if isinstance(content, list) else []
    texts = []
    for result in results:
        title, url = result.get("title") or "", result.get("url") or ""
        text = url if title in ("", url) else f"{title} – {url}"
        # the proxy encodes the text of the page
        encoded, age = result.get("encrypted_content"), result.get("page_age")
        if isinstance(encoded, str) and (passage := decode_passage(encoded)):
            text = f"{text}{f' ({age})' if isinstance(age, str) else ''}\n{passage}"
        texts.append(text)
    return ("\n\n" if any("\n" in text for text in texts) else "\n").join(texts)


_LIMIT = {"type": "integer", "description": "How many tools to return at most; 5 if not given."}

_ROWS = (
    ServerTool(
        kind="web_search",
        title="Web search",
        type_prefix="web_search_",
        names=("web_search",),
        functions={
            "web_search_": Function(
                description=(
                    "Searches the web and returns titles, addresses and passages of the pages found. Use it for what "
                    "is recent or what you do not know for certain, and name the addresses that the answer rests on."
                ),
                properties={"query": {"type": "string", "description": "What to look for."}},
                required=("query",),
            )
        },
        service="search",
        is_offered_without_service=True,
        as_text=_search_results_as_text,
        empty_text=NOTHING_LISTED,
        has_pages=True,
        counter="web_search_requests",
        not_texts={
            "web_search_result": ("encrypted_content",),
            "web_search_result_location": ("encrypted_index",),
        },
        is_capability=True,
        is_in_dashboard=True,
    ),
    ServerTool(
        kind="web_fetch",
        title="Web fetch",
        type_prefix="web_fetch_",
        names=("web_fetch",),
        functions={
            "web_fetch_": Function(
                description=(
                    "Fetches a page or a PDF and returns its content. Only addresses that stand in the conversation "
                    "already can be fetched: those that the user gave, and those that earlier searches and fetches "
                    "returned."
                ),
                properties={"url": {"type": "string", "description": "The whole address, with its scheme."}},
                required=("url",),
            )
        },
        service="fetch",
        has_document=True,
        has_pages=True,
        counter="web_fetch_requests",
        not_texts={"web_fetch_result": ("retrieved_at",)},
        is_in_dashboard=True,
    ),
    ServerTool(
        kind="tool_search",
        title="Tool search",
        type_prefix="tool_search_tool_",
        names=("tool_search", "tool_search_tool_regex", "tool_search_tool_bm25"),
        not_texts={},
        is_in_dashboard=False,
        result_names=("tool_search",),
        functions={
            "tool_search_tool_bm25": Function(
                description=(
                    "Finds further tools, which can be called once they are found. Takes words that say what the tool "
                    "should do, which are looked for in the names, descriptions and arguments of all tools."
                ),
                properties={
                    "query": {"type": "string", "description": "What the tool should do, in words."},
                    "limit": _LIMIT,
                },
                required=("query",),
            ),
            "tool_search_tool_": Function(
                description=(
                    "Finds further tools, which can be called once they are found. Takes a regular expression in "
                    "Python's syntax, which is looked for in the names, descriptions and arguments of all tools; "
                    "`(?i)` makes it blind to case."
                ),
                properties={
                    "pattern": {"type": "string", "description": "At most 200 characters: `weather`, `get_.*_data`."},
                    "limit": _LIMIT,
                },
                required=("pattern",),
            ),
        },
        empty_text="[nothing found]",
        limit_error="too_many_requests",
        error_has_message=True,
    ),
    ServerTool(
        kind="code_execution",
        title="Code execution",
        type_prefix="code_execution_",
        names=("code_execution", "bash_code_execution", "text_editor_code_execution"),
        not_texts={
            "encrypted_code_execution_result": ("encrypted_stdout",),
            "code_execution_output": ("file_id",),
            "bash_code_execution_output": ("file_id",),
        },
        is_in_dashboard=False,
        is_capability=True,
    ),
    ServerTool(
        kind="mcp_toolset",
        title="MCP servers",
        type_prefix="mcp_toolset",
        names=("mcp",),
        not_texts={},
        is_in_dashboard=False,
        call_type="mcp_tool_use",
    ),
    ServerTool(
        kind="advisor",
        title="Advisor",
        type_prefix="advisor_",
        names=("advisor",),
        not_texts={},
        is_in_dashboard=False,
    ),
)

SERVER_TOOLS: Mapping[ServerToolKind, ServerTool] = {row.kind: row for row in _ROWS}
PROXY_TOOLS: Mapping[ServerToolKind, ServerTool] = {kind: row for kind, row in SERVER_TOOLS.items() if row.functions}
"""The tools that the proxy can run."""
KINDS_BY_NAME: Mapping[str, ServerToolKind] = {name: row.kind for row in _ROWS for name in row.names}
"""Name of a tool in a call, or in the type of a result → its kind."""
SERVER_CALL_TYPES: tuple[str, ...] = get_args(CallType)
CALL_TYPES: tuple[str, ...] = ("tool_use", *SERVER_CALL_TYPES)
"""Types of the content blocks with a call of a tool."""
USAGE_COUNTERS: tuple[str, ...] = get_args(UsageCounter)
read_counts = attrgetter(*USAGE_COUNTERS)
"""Returns the counts of a `Usage`, in the order of `USAGE_COUNTERS`."""
NO_COUNTS = (None,) * len(USAGE_COUNTERS)
"""Result of `read_counts` for a reply that states no count."""
