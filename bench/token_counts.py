"""Compare the token estimate with the counts that providers reported, and fit its constants.

    python -m bench.token_counts read FOLDER CHECKOUT   facts of the recordings in FOLDER → bench/token_counts.tsv
    python -m bench.token_counts fit                    constants of each family, and the tables of decision 0012

FOLDER has the files of each repository in `_SOURCES` at its commit, as FOLDER/OWNER/NAME@COMMIT. A recording is a file
with requests and responses: of VCR for Python, Ruby, Go or R, of dd-apm-test-agent, Polly (HAR), httpmock or
httprr, as YAML or JSON, also compressed. The table has facts only: what a request contains in numbers (messages, tools,
sizes of images, words, digits and other features of its texts), the input tokens that the provider reported, and
`before`: the estimate of CHECKOUT, a checkout of this repository at commit 66211d14, before families of models.

Requests whose count has other input (tools of the provider, files or prompts it stores, schemas of replies, replayed
reasoning, a prompt of a host or chat template) or is that of another model (a list of models to choose from) are left
out, those that repeat one sentence to reach a length, and PDFs for Claude over Converse, which reads some as text and
some as pages. A request that has the parts of another one, and as much text within 1 %, is read once for each provider
and family.
"""

import csv
import gzip
import json
import math
import statistics
import subprocess
import sys
import zlib
from base64 import b64decode
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.tokens import (
    DEFAULT_FAMILY,
    TokenFacts,
    TokenFamily,
    collect_token_facts,
    count_image_units,
    estimate_tokens,
    weigh_message_text,
    weigh_text,
)
from anthropic_proxy.engine.providers.token_families import FAMILIES_FILE, find_family_name
from anthropic_proxy.errors import ProxyError

TABLE = Path(__file__).with_suffix(".tsv")
PAGE = Path(__file__).parents[1] / "docs/contributing/decisions/0012-token-estimate.md"
BEGIN, END = "<!-- errors: begin, written by python -m bench.token_counts fit -->\n", "<!-- errors: end -->"
MIN_LARGE_TOKENS = 1_000
"""Reported tokens above which a request counts as large. In smaller ones, text of the provider dominates."""


class CountedRequest(Struct, frozen=True):
    """One row of the table."""

    source: str
    """Repository and commit of the recording."""
    number: int
    """Number of the text. Requests with a file, a long line, a tool or a picture in common have the same number."""
    provider: str
    model: str
    characters: int
    """Size of the request as a Messages API request in JSON, without base64."""
    reported: int
    before: int
    """Estimate of the version before families of models."""
    facts: TokenFacts

    @property
    def kind(self) -> str:
        facts = self.facts
        if facts.pages:
            return "pdf"
        if facts.images:
            return "image"
        if facts.calls or facts.results:
            return "calls"
        return "tools" if facts.tools else "text"


# Reading of recordings

_SOURCES = {
    "pydantic/pydantic-ai@4fda3898": 0,
    **dict.fromkeys(
        (
            "0xPlaygrounds/rig@b75850e8",
            "Arize-ai/openinference@1fe497f1",
            "DataDog/dd-trace-py@3bb9ecda",
            "Mirascope/mirascope@41d43357",
            "activeagents/activeagent@a7614289",
            "braintrustdata/braintrust-sdk-python@a7053505",
            "charmbracelet/crush@37f36e93",
            "charmbracelet/crush@4e66adae",
            "charmbracelet/crush@a6fecdc7",
            "crewAIInc/crewAI@f4731f50",
            "crmne/ruby_llm@fb5a49bf",
            "docker/cagent@0d76412a",
            "ggozad/haiku.rag@e9f6fea5",
            "llamastack/llama-stack@d1b66329",
            "lmnr-ai/lmnr-python@67dea392",
            "patvice/ruby_llm-mcp@4d108519",
            "posit-dev/chatlas@ea453113",
            "tidyverse/ellmer@57e3d72d",
            "tmc/langchaingo@8fea3de6",
            "traceloop/openllmetry@93429cfb",
        ),
        MIN_LARGE_TOKENS,
    ),
}
"""Repository on GitHub and commit → reported tokens above which its requests are read."""
_PROVIDERS = (
    *(("anthropic.com", "anthropic"), ("openai.azure", "azure"), ("openai.com", "openai"), ("bedrock", "bedrock")),
    *(("generativelanguage", "gemini"), ("aiplatform", "vertex"), ("groq", "groq"), ("deepseek", "deepseek")),
    *(("mistral", "mistral"), ("openrouter", "openrouter"), ("cerebras", "cerebras"), ("z.ai", "zai")),
    *(("huggingface", "huggingface"), ("snowflake", "snowflake"), ("crusoe", "crusoe"), ("cohere", "cohere")),
    *(("x.ai", "xai"), ("moonshot", "moonshot"), ("azure", "azure"), ("ollama", "ollama")),
    *((":11434", "ollama"), ("hyper.charm", "charm"), ("ml.cloud.ibm", "watsonx"), ("ai-gateway.vercel", "vercel")),
)
"""A part of host and port → the provider."""
Json = dict[str, Any]


class _Unsuitable(Exception):
    """The count of a request has input that the engine cannot see."""


# Names of commit 66211d14, of which CHECKOUT is a checkout: its modules had other names.
_ESTIMATE_BEFORE = """
import sys
from anthropic_proxy.messages.models import decode_request
from anthropic_proxy.messages.tokens import estimate_request_tokens
for line in sys.stdin.buffer:
    print(estimate_request_tokens(decode_request(line)))
"""


def read_recordings(folder: Path, checkout: Path) -> list[CountedRequest]:
    read = _read_requests(folder)
    bodies = b"\n".join(json.dumps(body).encode() for _, body in read)
    done = subprocess.run(
        [sys.executable, "-c", _ESTIMATE_BEFORE], cwd=checkout, input=bodies, capture_output=True, check=True
    )
    return [
        structs.replace(row, before=int(before)) for (row, _), before in zip(read, done.stdout.split(), strict=True)
    ]


class _Read(NamedTuple):
    row: CountedRequest
    body: Json
    """As a Messages API request."""


def _read_requests(folder: Path) -> list[_Read]:
    """Return the requests without their estimates before."""
    requests: list[_Read] = []
    texts = _Texts()
    for source, least in _SOURCES.items():
        top = folder / source
        if not top.is_dir():
            sys.exit(f"{top} is missing.")
        for path in sorted(path for path in top.rglob("*") if path.is_file()):
            for exchange in _list_exchanges(path):
                try:
                    read = _read_exchange(source, exchange)
                except (_Unsuitable, ProxyError, KeyError, TypeError, AttributeError, ValueError, IndexError):
                    continue
                if read.row.reported > least:
                    texts.add(len(requests), [str(path), *_long_parts(read.body)])
                    requests.append(read)
    seen: set[tuple[Any, ...]] = set()
    distinct = []
    for place, read in enumerate(requests):
        row = structs.replace(read.row, number=texts.find(place))
        family = row.provider, find_family_name(row.model)
        keys = {(*family, row.number, *_similarity(row.facts)), (*family, msgspec.json.encode(row.facts))}
        if seen.isdisjoint(keys):
            seen |= keys
            distinct.append(_Read(row, read.body))
    return distinct


class _Texts:
    """Groups of requests with a part in common."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self._owners: dict[str, int] = {}

    def add(self, request: int, parts: Iterable[str]) -> None:
        self._parents[request] = request
        for part in parts:
            self._parents[self.find(request)] = self.find(self._owners.setdefault(part, request))

    def find(self, request: int) -> int:
        while self._parents[request] != request:
            request = self._parents[request]
        return request


_MIN_PART = 200
"""Characters from which a line, a tool or the data of a picture in two requests makes them one text."""


def _long_parts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "input_schema" in value and len(tool := json.dumps(value)) >= _MIN_PART:
            yield tool
        for member in value.values():
            yield from _long_parts(member)
    elif isinstance(value, list):
        for member in value:
            yield from _long_parts(member)
    elif isinstance(value, str):
        yield from (line for line in value.splitlines() if len(line) >= _MIN_PART)


def _similarity(facts: TokenFacts) -> tuple[Any, ...]:
    """Return what requests have in common that differ only in identifiers, times and other small details."""
    weights = (weigh_text(facts.text), weigh_text(facts.tool_text), facts.reasoning, facts.page_text)
    sizes = (round(100 * math.log(weight + 1)) for weight in weights)
    counts = facts.messages, facts.calls, facts.results, facts.tools, facts.pages, facts.thinks
    return *counts, *sizes, *facts.images


def _list_exchanges(path: Path) -> list[Json]:
    """Return the requests and responses of a recording, each as `request` with `uri` and `body`, and `response`."""
    import yaml  # noqa: PLC0415  # only the reading of recordings needs it

    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if data.startswith(_GZIP) else data
        if data.startswith(b"httprr trace"):
            return list(_read_httprr(data))
        documents = [json.loads(data)] if path.suffix in (".json", ".har") else list(yaml.load_all(data, _loader()))
    except (yaml.YAMLError, ValueError, RecursionError, OSError):
        return []
    exchanges: list[Json] = []
    for document in documents:
        match document:
            case {"log": {"entries": entries}}:
                for entry in entries:
                    entry["request"]["body"] = (entry["request"].get("postData") or {}).get("text")
                    entry["response"]["body"] = entry["response"]["content"].get("text")
                exchanges += entries
            case {"when": asked, "then": answered}:  # without the host: its folder has the name of the provider
                host = str(path).partition("/cassettes/")[2].partition("/")[0]
                request = {"uri": f"https://{host}.com{asked['path']}", "body": asked.get("body")}
                exchanges.append({"request": request, "response": answered})
            case {"request": _, "response": _}:
                exchanges.append(document)
            case {"interactions": list(interactions)} | {"http_interactions": list(interactions)}:
                exchanges += interactions
    return exchanges


def _loader() -> Any:
    import yaml  # noqa: PLC0415  # only the reading of recordings needs it

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Loader that reads values with tags of Ruby and Python as plain ones, and `=` and times as texts."""

    kept = ("tag:yaml.org,2002:value", "tag:yaml.org,2002:timestamp")
    Loader.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] not in kept]
        for first, pairs in Loader.yaml_implicit_resolvers.items()
    }

    def construct(loader: Any, suffix: str, node: Any) -> Any:
        if isinstance(node, yaml.ScalarNode):
            value = loader.construct_scalar(node)
            return b64decode(value) if suffix == "binary" else value
        is_mapping = isinstance(node, yaml.MappingNode)
        return (loader.construct_mapping if is_mapping else loader.construct_sequence)(node, deep=True)

    Loader.add_multi_constructor("!", construct)
    Loader.add_multi_constructor("tag:yaml.org,2002:python/", construct)
    return Loader


def _read_httprr(data: bytes) -> Iterator[Json]:
    """Yield the exchanges of a trace: the sizes of a request and a response in a line, then both as HTTP."""
    place = data.index(b"\n") + 1
    while place < len(data):
        end = data.index(b"\n", place)
        sizes = [int(size) for size in data[place:end].split()]
        request = data[end + 1 : end + 1 + sizes[0]]
        place = end + 1 + sum(sizes)
        response = data[place - sizes[1] : place]
        head, _, body = request.partition(b"\r\n\r\n")
        yield {
            "request": {"uri": head.split()[1].decode(), "body": body},
            "response": {"body": response.partition(b"\r\n\r\n")[2]},
        }


_GZIP = b"\x1f\x8b"


def _plain_body(message: Json) -> Any:
    """Return the body of a request or response as text, object, or list of objects, whatever the recorder wrote."""
    body = message.get("parsed_body") or message.get("body")
    match body:
        case {"__data__": data}:
            return data
        case {"string": text}:
            body = text
        case {"base64_string": text} | {"b64": text}:
            body = b64decode(text)
    if isinstance(body, str) and body.startswith("H4sI"):
        body = b64decode(body)
    if isinstance(body, bytes):
        return (gzip.decompress(body) if body.startswith(_GZIP) else body).decode(errors="replace")
    return body


def _read_exchange(source: str, exchange: Json) -> _Read:
    request, response = exchange["request"], exchange["response"]
    url = urlsplit(request.get("uri") or request["url"])
    sent = _plain_body(request)
    sent = json.loads(sent) if isinstance(sent, str) else sent
    model, convert, last = str(sent.get("model", "")), _CONVERTERS.get(url.path.rpartition("/")[2]), ""
    if convert is None:
        path, _, last = url.path.rpartition(":")
        convert, model = _CONVERTERS[last], unquote(path.rpartition("/")[2])
    elif convert is _from_converse:
        model = unquote(url.path.split("/")[-2])
    body: Json = {**convert(sent), **_thinking(sent), **_tool_choice(sent)}
    reported = max((_reported(usage) for usage in _find_usages(response)), default=0)
    if reported <= 0 or not body["messages"]:
        raise _Unsuitable
    body = {"model": "m", "max_tokens": 1, **body}
    plain = json.dumps(_without_data(body)).encode()
    _require(len(plain) < 2_000 or len(zlib.compress(plain)) > len(plain) / 10)  # one sentence again and again
    facts = collect_token_facts(decode_request(json.dumps(body).encode()), finds_reasoning=True)
    _require(convert is not _from_converse or "claude" not in model or not facts.pages)
    provider = next((name for part, name in _PROVIDERS if part in url.netloc), "")
    _require(provider and not model.startswith(("arn:", "compound")))
    facts.reasoning, facts.tool_json = round(facts.reasoning, 1), round(facts.tool_json, 1)
    facts.text, facts.tool_text = (tuple(round(amount, 1) for amount in text) for text in (facts.text, facts.tool_text))
    return _Read(CountedRequest(source, 0, provider, model, len(plain), reported, 0, facts), body)


def _without_data(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "" if key == "data" else _without_data(member) for key, member in value.items()}
    return [_without_data(member) for member in value] if isinstance(value, list) else value


def _find_usages(response: Json) -> Iterator[Json]:
    body = _plain_body(response)
    parts = body if isinstance(body, list) else [body]
    if isinstance(body, str):
        try:
            parts = [json.loads(body)]
        except ValueError:
            lines = (line.removeprefix("data:").strip() for line in body.splitlines())
            parts = [json.loads(line) for line in lines if line.startswith("{")]
    for given in parts:
        part = given.get("__data__", given) if isinstance(given, dict) else {}
        for holder in (part, part.get("message"), part.get("response")):
            for name in ("usage", "usageMetadata"):
                if isinstance(holder, dict) and isinstance(holder.get(name), dict):
                    yield holder[name]


def _reported(usage: Json) -> int:
    if usage.get("server_tool_use") and any(usage["server_tool_use"].values()):
        raise _Unsuitable
    match usage:
        case {
            "prompt_tokens": int(prompt),
            "completion_tokens": int(completion),
            "total_tokens": int(total),
            "prompt_tokens_details": {"cached_tokens": int(cached)},
        } if prompt + cached + completion == total:  # a host that counts cached tokens apart
            return prompt + cached
    for name in ("prompt_tokens", "promptTokenCount"):
        if name in usage:
            return int(usage[name] or 0)
    names = ("input_tokens", "inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
    if "input_tokens_details" not in usage:
        names += ("cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(int(usage.get(name) or 0) for name in names)


def _require(condition: object) -> None:
    if not condition:
        raise _Unsuitable


def _thinking(sent: Json) -> Json:
    """Return the field `thinking` for a request that turns thinking on in the form of its API."""
    config = sent.get("generationConfig") or {}
    thinking = (sent.get("additionalModelRequestFields") or sent).get("thinking")
    thinking = thinking or sent.get("reasoning") or config.get("thinkingConfig") or {}
    effort = sent.get("reasoning_effort") or thinking.get("effort")
    is_off = effort == "none" or thinking.get("type") == "disabled" or thinking.get("thinkingBudget") == 0
    return {"thinking": {"type": "adaptive"}} if (effort or thinking) and not is_off else {}


def _tool_choice(sent: Json) -> Json:
    """Return the field `tool_choice` for a request that demands a call of a tool in the form of its API."""
    choice = sent.get("tool_choice") or (sent.get("toolConfig") or {}).get("toolChoice")
    named = choice.get("type", "any") if isinstance(choice, dict) and "auto" not in choice else choice
    return {"tool_choice": {"type": "any"}} if named in ("any", "tool", "required", "function") else {}


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _media(mime: str, data: str) -> Json:
    kind = "document" if mime == "application/pdf" else "image"
    _require(kind == "document" or mime.startswith("image/"))
    return {"type": kind, "source": {"type": "base64", "media_type": mime, "data": data}}


def _data_url(url: str) -> Json:
    head, _, data = url.partition(",")
    _require(head.startswith("data:") and data)
    return _media(head[5:].split(";")[0], data)


def _call(call_id: str, name: str, arguments: Any) -> Json:
    return {
        "type": "tool_use",
        "id": call_id,
        "name": name,
        "input": json.loads(arguments or "{}") if isinstance(arguments, str) else arguments,
    }


def _result(call_id: str, content: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def _tool(name: str, description: str | None, schema: Any) -> Json:
    return {"name": name, "description": description or "", "input_schema": schema or {"type": "object"}}


class _Messages:
    """Messages in the order of a foreign request. Neighbors of one role are one message, as the API demands."""

    def __init__(self) -> None:
        self.system: list[Json] = []
        self.messages: list[Json] = []

    def add(self, role: str, blocks: list[Json]) -> None:
        if role in ("system", "developer"):
            self.system += blocks
        elif self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        elif blocks:
            self.messages.append({"role": role, "content": blocks})

    def body(self, tools: list[Json]) -> Json:
        return {"system": self.system, "messages": self.messages, "tools": tools}


def _from_messages(sent: Json) -> Json:
    _require(
        not sent.get("mcp_servers") and not sent.get("container") and not sent.get("output_config", {}).get("format")
    )
    _require(not sent.get("output_format"))
    _require(all(tool.get("type", "custom") == "custom" and "input_schema" in tool for tool in sent.get("tools", [])))
    blocks = [
        block for message in sent["messages"] if isinstance(message["content"], list) for block in message["content"]
    ]
    nested = [part for block in blocks if isinstance(block.get("content"), list) for part in block["content"]]
    known = {"text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"}
    for block in (*blocks, *nested):
        _require(block["type"] in known and block.get("source", {}).get("type", "base64") in ("base64", "text"))
    return {name: sent[name] for name in ("system", "messages", "tools") if name in sent}


def _chat_part(part: Json) -> Json:
    match part["type"]:
        case "text":
            return _text(part["text"])
        case "image_url":
            return _data_url(part["image_url"]["url"])
        case "file":
            return _data_url(part["file"]["file_data"])
    raise _Unsuitable


def _from_chat(sent: Json) -> Json:
    _require(sent.get("response_format", {}).get("type", "text") == "text" and not sent.get("web_search_options"))
    _require(not sent.get("plugins") and not sent.get("builtin_tools"))
    _require(not sent.get("preset") and not sent.get("models"))  # a prompt of the host, or another model replied
    messages = _Messages()
    for message in sent["messages"]:
        _require(not any(message.get(name) for name in ("reasoning", "reasoning_content", "reasoning_details")))
        content = message.get("content") or []
        blocks = [_text(content)] if isinstance(content, str) else [_chat_part(part) for part in content]
        if message["role"] == "tool":
            messages.add("user", [_result(message["tool_call_id"], blocks)])
            continue
        blocks += [
            _call(call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or []
        ]
        messages.add(message["role"], blocks)
    tools = []
    for tool in sent.get("tools") or []:
        _require(tool["type"] == "function")
        function = tool["function"]
        tools.append(_tool(function["name"], function.get("description"), function.get("parameters")))
    return messages.body(tools)


def _responses_part(part: Json) -> Json:
    match part["type"]:
        case "input_text" | "output_text":
            return _text(part["text"])
        case "input_image":
            return _data_url(part["image_url"])
        case "input_file":
            return _data_url(part["file_data"])
    raise _Unsuitable


def _from_responses(sent: Json) -> Json:
    _require(sent.get("text", {}).get("format", {}).get("type", "text") == "text")
    _require("mode" not in (sent.get("reasoning") or {}))  # several internal calls
    _require(not sent.get("previous_response_id") and not sent.get("conversation"))
    messages = _Messages()
    messages.add("system", [_text(sent.get("instructions") or "")])
    given = sent["input"]
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        match item.get("type", "message"):
            case "message":
                content = item["content"]
                blocks = [_text(content)] if isinstance(content, str) else [_responses_part(part) for part in content]
                messages.add(item["role"], blocks)
            case "function_call":
                messages.add("assistant", [_call(item["call_id"], item["name"], item["arguments"])])
            case "function_call_output":
                output = item["output"]
                blocks = [_text(output)] if isinstance(output, str) else [_responses_part(part) for part in output]
                messages.add("user", [_result(item["call_id"], blocks)])
            case _:  # also reasoning, which the count includes
                raise _Unsuitable
    tools = []
    for tool in sent.get("tools") or []:
        _require(tool["type"] == "function" and not tool.get("defer_loading"))
        tools.append(_tool(tool["name"], tool.get("description"), tool.get("parameters")))
    return messages.body(tools)


def _from_gemini(sent: Json) -> Json:
    _require(
        "responseJsonSchema" not in (config := sent.get("generationConfig") or {}) and "responseSchema" not in config
    )
    _require("mediaResolution" not in config and not sent.get("cachedContent"))
    messages = _Messages()
    messages.add("system", [_text(part["text"]) for part in (sent.get("systemInstruction") or {}).get("parts", [])])
    for content in sent["contents"]:
        blocks = []
        for number, part in enumerate(content["parts"]):
            _require(not part.get("thought") and not part.get("thoughtSignature"))  # the count has its reasoning
            call = part.get("functionCall") or part.get("functionResponse") or {}
            call_id = call.get("id") or f"{call.get('name')}{number}"
            if "text" in part:
                blocks.append(_text(part["text"]))
            elif "inlineData" in part:
                data = part["inlineData"]["data"].replace("-", "+").replace("_", "/")
                blocks.append(_media(part["inlineData"]["mimeType"], data))
            elif "functionCall" in part:
                blocks.append(_call(call_id, call["name"], call.get("args") or {}))
            elif "functionResponse" in part:
                parts = [_text(json.dumps(call["response"], ensure_ascii=False))]
                media = [part["inlineData"] for part in call.get("parts") or []]
                parts += [_media(data["mimeType"], data["data"]) for data in media]
                blocks.append(_result(call_id, parts))
            else:
                raise _Unsuitable
        messages.add("assistant" if content["role"] == "model" else "user", blocks)
    tools = []
    for group in sent.get("tools") or []:
        _require(set(group) == {"functionDeclarations"})
        for tool in group["functionDeclarations"]:
            schemas = (tool.get(name) for name in ("parametersJsonSchema", "parameters_json_schema", "parameters"))
            schema = next(filter(None, schemas), None)
            tools.append(_tool(tool["name"], tool.get("description"), schema))
    return messages.body(tools)


def _converse_part(part: Json) -> list[Json]:
    if "text" in part:
        return [_text(part["text"])]
    if "json" in part:
        return [_text(json.dumps(part["json"]))]
    if "image" in part:
        return [_media(f"image/{part['image']['format']}", part["image"]["source"]["bytes"])]
    if "document" in part and part["document"]["format"] == "pdf":
        return [_media("application/pdf", part["document"]["source"]["bytes"])]
    if "toolUse" in part:
        return [_call(part["toolUse"]["toolUseId"], part["toolUse"]["name"], part["toolUse"]["input"])]
    if "toolResult" in part:
        parts = [block for inner in part["toolResult"]["content"] for block in _converse_part(inner)]
        return [_result(part["toolResult"]["toolUseId"], parts)]
    _require("reasoningContent" in part or "cachePoint" in part)
    return []


def _from_converse(sent: Json) -> Json:
    _require(not sent.get("outputConfig"))
    messages = _Messages()
    messages.add("system", [block for part in sent.get("system") or [] for block in _converse_part(part)])
    for message in sent["messages"]:
        messages.add(message["role"], [block for part in message["content"] for block in _converse_part(part)])
    tools = []
    for tool in (sent.get("toolConfig") or {}).get("tools", []):
        _require("toolSpec" in tool or "cachePoint" in tool)
        if spec := tool.get("toolSpec"):
            tools.append(_tool(spec["name"], spec.get("description"), spec["inputSchema"]["json"]))
    return messages.body(tools)


_CONVERTERS = {
    "messages": _from_messages,
    "count_tokens": _from_messages,
    "completions": _from_chat,
    "responses": _from_responses,
    "generateContent": _from_gemini,
    "streamGenerateContent": _from_gemini,
    "converse": _from_converse,
}


# Table


_COLUMNS = ("source", "number", "provider", "model", "characters", "reported", "before")
_TEXTS = ("text", "tool_text")


def write_table(rows: Sequence[CountedRequest]) -> None:
    fields = TokenFacts.__struct_fields__
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow((*_COLUMNS, *fields))
        numbers: dict[int, int] = {}
        for row in rows:
            number = numbers.setdefault(row.number, len(numbers))
            cells = {name: getattr(row.facts, name) for name in fields}
            cells["images"] = " ".join("x".join(map(str, size)) if size else "?" for size in row.facts.images)
            for name in _TEXTS:
                cells[name] = " ".join(f"{amount:g}" for amount in cells[name])
            of_row = {name: getattr(row, name) for name in _COLUMNS} | {"number": number}
            writer.writerow((*of_row.values(), *cells.values()))


def read_table() -> list[CountedRequest]:
    rows = []
    with TABLE.open(newline="") as file:
        for cells in csv.DictReader(file, delimiter="\t"):
            images = [
                None if size == "?" else (int(size.split("x")[0]), int(size.split("x")[1]))
                for size in cells.pop("images").split()
            ]
            row: dict[str, Any] = {name: cells.pop(name) for name in _COLUMNS}
            texts = {name: tuple(map(float, cells.pop(name).split())) for name in _TEXTS}
            row["facts"] = msgspec.convert({**cells, **texts, "images": images}, TokenFacts, strict=False)
            rows.append(msgspec.convert(row, CountedRequest, strict=False))
    return rows


# Fit

_BOUNDS = {
    "per_request": (0.0, 80.0),
    "thinking": (0.0, 60.0),
    "per_message": (0.0, 12.0),
    "per_call": (0.0, 30.0),
    "per_result": (0.0, 30.0),
    "any_tool": (0.0, 1_000.0),
    "forced_tool": (0.0, 150.0),
    "per_tool": (0.0, 100.0),
    "per_property": (0.0, 4.0),
    "text": (0.95, 1.7),
    "tool_text": (0.9, 1.5),
    "tool_json": (0.8, 1.7),
    "image_base": (0.0, 1_000.0),
    "per_image_unit": (0.0, 3.0),
    "per_page": (100.0, 4_000.0),
    "page_text": (0.0, 2.0),
}
"""Constant → minimum and maximum of its fitted value."""
_IMAGE_CONSTANTS = ("image_base", "per_image_unit")
_START_WEIGHT = 0.02
"""Weight of the distance from the start values, so that a constant with few requests stays near them."""
_ROUNDS, _SWEEPS = 15, 30
_MAX_SHARE = 0.1
"""Maximum share of one request in the fit of a family."""
_EASE = 20
"""Tokens that are added to estimate and count before they are compared. In a request of 10 tokens one is 10 %."""
_MIN_GAIN = 0.02
"""Share by which start values must be worse than fitted ones to be replaced. Smaller differences are chance."""
_PAGE_RANGE = 1.25
"""Maximum factor between the start value of a page and its fitted value, because few requests have PDFs."""


def _importance(row: CountedRequest) -> float:
    """Large requests matter, because they fill context windows. None decides alone."""
    return 0.2 + min(row.reported, 1_000) / 500


def _parts(facts: TokenFacts, family: TokenFamily) -> list[float]:
    """Return the factors of the constants in `_BOUNDS` in the estimate of a request."""
    units = sum(count_image_units(size, family) for size in facts.images)
    has_tools = min(facts.tools, 1)
    counts = [facts.messages, facts.calls, facts.results, has_tools, facts.forces_tool * has_tools, facts.tools]
    amounts = [1, facts.thinks, *counts, facts.tool_marks]
    texts = weigh_message_text(facts, family), weigh_text(facts.tool_text), facts.tool_json
    return [*amounts, *texts, len(facts.images), units, facts.pages, facts.page_text]


class Example(Struct):
    """A request, and the factors of the constants in its estimate."""

    row: CountedRequest
    parts: list[float]


def fit_family(examples: Sequence[Example], start: TokenFamily, kept: Collection[str] = ()) -> TokenFamily:
    """Return a family with the constants of least absolute logarithmic error, near those of `start`.

    The logarithm of estimate through count has the same size for half and for twice the count. The relative error has
    not (-50 % and +100 %), so its minimum is an estimate that is too low.

    `kept`: names of constants that stay as they are in `start`, as do those that no example has. Coordinate descent on
    squares whose weights follow from the estimates and errors of the round before.
    """
    bounds_by_name = dict(_BOUNDS, per_page=(start.per_page / _PAGE_RANGE, start.per_page * _PAGE_RANGE))
    bounds_by_name["per_request"] = 0.0, start.per_request + 8
    if start.image_rule not in ("area", "patches of 32"):  # rules whose constants are published
        kept = (*kept, *_IMAGE_CONSTANTS)
    if start.forced_tool:  # a family whose prompts for tools are published
        kept = (*kept, "any_tool")
    if start.page_text == 1:  # families whose providers document that they add the text of a page
        kept = (*kept, "page_text")
    kept = (*kept, "forced_tool", *(("tool_text", "per_property") if start.tool_json else ("tool_json",)))
    given = [float(getattr(start, name)) for name in _BOUNDS]
    places = [
        place
        for place, name in enumerate(_BOUNDS)
        if name not in kept and any(example.parts[place] for example in examples)
    ]
    names = [list(_BOUNDS)[place] for place in places]
    bounds, values = [bounds_by_name[name] for name in names], [given[place] for place in places]
    importances = [_importance(example.row) for example in examples]
    most = _MAX_SHARE * sum(importances)
    equations = []
    for example, importance in zip(examples, importances, strict=True):
        amounts = [float(example.parts[place]) for place in places]
        parts = [(i, amount) for i, amount in enumerate(amounts) if amount]
        fixed = sum(map(float.__mul__, given, example.parts)) - sum(map(float.__mul__, values, amounts))
        equations.append((parts, fixed + _EASE, example.row.reported + _EASE, min(importance, most)))
    everything = range(len(places))
    anchors = [_START_WEIGHT * 100 / max(high - low, 0.1) ** 2 for low, high in bounds]
    for _ in range(_ROUNDS):
        matrix = [[0.0] * len(places) for _ in places]
        target = [anchor * given[place] for anchor, place in zip(anchors, places, strict=True)]
        for i, anchor in enumerate(anchors):
            matrix[i][i] = anchor
        for parts, fixed, wanted, importance in equations:
            estimate = max(fixed + sum(values[i] * amount for i, amount in parts), 1)
            weight = importance / (max(abs(estimate - wanted), 0.02 * estimate) * estimate)
            for i, amount in parts:
                weighted = weight * amount
                target[i] += weighted * (wanted - fixed)
                row = matrix[i]
                for j, other in parts:
                    row[j] += weighted * other
        for _ in range(_SWEEPS):
            for i in everything:
                row = matrix[i]
                others = sum(map(float.__mul__, row, values)) - row[i] * values[i]
                values[i] = min(max((target[i] - others) / row[i], bounds[i][0]), bounds[i][1])
    return structs.replace(start, **{name: round(value, 2) for name, value in zip(names, values, strict=True)})


def _starts() -> dict[str, TokenFamily]:
    """Return the families before the fit: how they count images, as their providers describe it.

    The texts that the chat templates of GLM-4.5, Qwen3 and Qwen3-Coder put around tools have about 130, 100 and 230
    tokens; that of Llama 3.3 begins each request with 30. Those of DeepSeek R1, GLM-4.5 and Qwen3 keep only what
    follows the last `</think>` of an earlier reply. Mistral's are those of its tokenizer (`tekken_240911.json` of
    mistral-common 1.13.1), for 296 texts: licenses, code and pages in English, some of them in capitals. Its template
    has one token before the conversation, and two around a message.

    The templates of DeepSeek, GLM, Qwen, Llama 3 and Mistral contain tools as JSON, which the weights of texts count
    5 % low against o200k. Claude reads JSON too, behind a prompt whose tokens are published (platform.claude.com/docs,
    "Tool use", 2026-11): 313 for Claude 4, 497 from 4.5, 675 for Opus 4.7, 290 to 354 later, and more if `tool_choice`
    is `any` or `tool`. In 22 recorded texts, Claude before Opus 4.7 counts 1.16 times the tokens of o200k.

    OpenAI reads the text and an image of each page (developers.openai.com, "File inputs", 2026-11). An image costs
    about 1,000 tokens over Chat Completions since May 2026, about 220 before, and 30 to 80 over Responses before
    GPT-5.6, whose images have the higher detail: the largest counts, because a window must not overflow.
    """
    json_tools = TokenFamily(per_tool=8, per_property=0, tool_text=0, tool_json=1.05)
    claude = TokenFamily(
        per_tool=0,
        per_property=0,
        tool_text=0,
        tool_json=1.16,
        thinking=26,
        any_tool=497,
        forced_tool=92,
        text=1.16,
        image_rule="patches of 28",
        max_image_units=1_568,
        per_page=1_700,
        page_text=1.12,
    )
    openai = TokenFamily(
        image_rule="tiles", image_base=85, per_image_unit=170, max_image_units=16, per_page=1_000, page_text=1
    )
    mistral = structs.replace(json_tools, per_request=1, per_message=2, text=1.06, per_digit=0.6, per_capital=0.1)
    gemini = TokenFamily(per_request=0, per_message=0, any_tool=0, image_rule="flat", per_image_unit=0, per_page=258)
    starts = {
        "claude-4": structs.replace(claude, any_tool=313, forced_tool=2),
        "claude": claude,
        "claude-opus-4-7": structs.replace(
            claude,
            thinking=0,
            any_tool=675,
            forced_tool=129,
            text=1.5,
            tool_json=1.5,
            max_image_units=4_784,
            per_page=1_600,
            page_text=1.4,
        ),
        "claude-5": structs.replace(
            claude,
            thinking=0,
            any_tool=322,
            forced_tool=120,
            text=1.5,
            tool_json=1.5,
            max_image_units=4_784,
            per_page=1_600,
            page_text=1.4,
        ),
        "openai": openai,
        "openai-mini": structs.replace(
            openai, image_rule="patches of 32", image_base=0, per_image_unit=1.62, max_image_units=1_536
        ),
        "openai-4o-mini": structs.replace(openai, image_base=2_833, per_image_unit=5_667),
        "openai-nano": structs.replace(
            openai, image_rule="patches of 32", image_base=0, per_image_unit=2.46, max_image_units=1_536
        ),
        "gpt-oss": structs.replace(openai, per_request=68),
        "gemini-2": structs.replace(
            gemini, image_base=0, image_rule="cells", per_image_unit=258, max_image_units=65, per_page=577
        ),
        "gemini-2.5": structs.replace(gemini, image_base=258),
        "gemini-3": structs.replace(gemini, image_base=1_100, per_page=560),
        "deepseek": structs.replace(json_tools, per_page=800, any_tool=270),
        "deepseek-r1": TokenFamily(drops_reasoning=True),
        "deepseek-4": structs.replace(json_tools, per_page=800, any_tool=270, per_request=75),
        "glm": structs.replace(json_tools, per_page=800, any_tool=130, drops_reasoning=True),
        "qwen": structs.replace(json_tools, any_tool=100, drops_reasoning=True),
        "qwen-coder": structs.replace(json_tools, any_tool=230),
        "llama-3": structs.replace(json_tools, per_request=30),
        "mistral": structs.replace(mistral, per_page=800, image_rule="rows of 28", max_image_units=3_080),
        "pixtral": structs.replace(mistral, per_page=100, page_text=1, image_rule="rows of 16", max_image_units=4_160),
        "llama-4": TokenFamily(per_page=100, page_text=1, image_rule="canvas", per_image_unit=145, max_image_units=17),
        "nova": TokenFamily(per_page=3_000, image_rule="flat", image_base=1_825, per_image_unit=0),
        "nova-2": TokenFamily(per_page=3_000),
    }
    return {name: structs.replace(family, name=name) for name, family in starts.items()}


_SAME_TEXT = frozenset({"openai", "openai-mini", "openai-4o-mini", "openai-nano"})
"""Families that differ only in images and PDFs. Requests without these to any of them fit the other constants."""
_PARTS = {
    "thinking": ("thinking",),
    "pdf": ("per_page", "page_text"),
    "image": _IMAGE_CONSTANTS,
    "calls": ("per_call", "per_result"),
    "tools": ("any_tool", "per_tool", "per_property", "tool_text", "tool_json"),
    "text": ("per_request", "per_message", "text"),
}
"""Kind of requests → constants that only they have, or, for `text`, that all have."""


class FittedFamily(Struct):
    """A family, and the estimates of its requests by constants that were fitted without the same recording."""

    family: TokenFamily
    estimates: dict[int, int]
    """Position in the table → tokens."""


def fit_families(rows: Sequence[CountedRequest]) -> list[FittedFamily]:
    """Return the families of `_starts`.

    Constants that predict other recordings worse than their start values, which come from documents or are those of
    unknown models, keep these. This is decided for each kind of requests.
    """
    fitted = []
    for name, start in _starts().items():
        members = {
            place: Example(row, _parts(row.facts, start))
            for place, row in enumerate(rows)
            if find_family_name(row.model) == name
            or (name in _SAME_TEXT and find_family_name(row.model) in _SAME_TEXT and row.kind not in ("image", "pdf"))
        }
        kept: set[str] = set()
        fits_without: dict[tuple[int, frozenset[str]], TokenFamily] = {}
        for kind, constants in _PARTS.items():
            of_kind = {
                place: example
                for place, example in members.items()
                if (example.row.facts.thinks if kind == "thinking" else example.row.kind == kind)
            }
            fits, keeps = (
                _total_error(of_kind, _predict(members, of_kind, start, names, fits_without))
                for names in (kept, {*kept, *constants})
            )
            if keeps <= fits * (1 + _MIN_GAIN):
                kept |= set(constants)
        own = {place: example for place, example in members.items() if find_family_name(example.row.model) == name}
        estimates = _predict(members, own, start, kept, fits_without)
        fitted.append(FittedFamily(fit_family(list(members.values()), start, kept), estimates))
    return fitted


def _predict(
    members: Mapping[int, Example],
    asked: Mapping[int, Example],
    start: TokenFamily,
    kept: Collection[str],
    fits: dict[tuple[int, frozenset[str]], TokenFamily],
) -> dict[int, int]:
    """Return the estimates of some requests, each by the constants that fit the members of other recordings.

    `fits`: the constants by the number that they do not know and by the names that are kept.
    """
    estimates = {}
    for number in {example.row.number for example in asked.values()}:
        key = number, frozenset(kept)
        if key not in fits:
            others = [example for example in members.values() if example.row.number != number]
            fits[key] = fit_family(others, start, kept)
        family = fits[key]
        estimates |= {
            place: estimate_tokens(example.row.facts, family)
            for place, example in asked.items()
            if example.row.number == number
        }
    return estimates


def _total_error(examples: Mapping[int, Example], estimates: Mapping[int, int]) -> float:
    """Return the sum of the absolute logarithmic errors, each at most 1, by the importance of the requests."""
    return sum(
        _importance(example.row) * min(1, abs(math.log((estimates[place] + _EASE) / (example.row.reported + _EASE))))
        for place, example in examples.items()
    )


class Errors(Struct):
    """Relative errors of the requests of one kind to one provider, before families and with them."""

    provider: str
    kind: str
    is_large: bool
    texts: set[int] = set()
    """Numbers of the texts of these requests."""
    before: list[float] = []
    after: list[float] = []

    @property
    def figures(self) -> list[float]:
        """Median, 90th percentile of the absolute errors and their mean, before and after, in percent."""
        return [
            figure * 100
            for errors in (self.before, self.after)
            for figure in (statistics.median(errors), _p90(errors), mean_error(errors))
        ]


def list_errors(rows: Sequence[CountedRequest], families: Sequence[FittedFamily]) -> list[Errors]:
    estimates: dict[int, int] = {}
    for fitted in families:
        estimates |= fitted.estimates
    groups: dict[tuple[str, str, bool], Errors] = {}
    for place, row in enumerate(rows):
        after = estimates.get(place) or estimate_tokens(row.facts, DEFAULT_FAMILY)
        is_large = row.reported > MIN_LARGE_TOKENS
        for provider, kind in ((row.provider, row.kind), ("all", "all")):
            group = groups.setdefault((provider, kind, is_large), Errors(provider, kind, is_large))
            group.texts.add(row.number)
            group.before.append(row.before / row.reported - 1)
            group.after.append(after / row.reported - 1)
    return [group for _, group in sorted(groups.items())]


def list_worse(groups: Sequence[Errors]) -> list[Errors]:
    """Return the groups with a larger median, 90th percentile or mean than before, by more than 0.05 points."""
    return [
        group
        for group in groups
        if any(
            abs(after) > abs(before) + 0.05 for before, after in zip(group.figures[:3], group.figures[3:], strict=True)
        )
    ]


def mean_error(errors: Sequence[float]) -> float:
    """Return the mean of the absolute errors, each counted as at most 1."""
    return statistics.mean(min(1, abs(error)) for error in errors)


def _p90(errors: Sequence[float]) -> float:
    ordered = sorted(map(abs, errors))
    return ordered[min(len(ordered) * 9 // 10, len(ordered) - 1)]


def error_tables(groups: Sequence[Errors]) -> str:
    """Return the tables of the decision."""
    lines = []
    for is_large, title in ((True, "above 1,000 tokens"), (False, "of at most 1,000 tokens")):
        lines += [f"Requests {title}:", ""]
        lines.append("| provider, kind | n | texts | before: median | p90 | mean | after: median | p90 | mean |")
        lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for group in groups:
            if group.is_large == is_large:
                cells = " | ".join(f"{figure:.{1 - place % 3 % 2}f}" for place, figure in enumerate(group.figures))
                lines.append(f"| {group.provider}, {group.kind} | {len(group.after)} | {len(group.texts)} | {cells} |")
        lines.append("")
    return "\n".join([*lines, ""])


def _write_families(families: Sequence[TokenFamily]) -> None:
    lines = [
        json.dumps(
            {
                field: value
                for field in TokenFamily.__struct_fields__
                if (value := getattr(family, field)) != getattr(DEFAULT_FAMILY, field)
            }
        )
        for family in families
    ]
    FAMILIES_FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")


def main() -> None:
    match sys.argv[1:]:
        case ["read", folder, checkout]:
            write_table(read_recordings(Path(folder), Path(checkout)))
        case ["fit"]:
            rows = read_table()
            families = fit_families(rows)
            _write_families([fitted.family for fitted in families])
            before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
            tables = error_tables(list_errors(rows, families))
            PAGE.write_text(f"{before}{BEGIN}{tables}{END}{rest.partition(END)[2]}", "utf-8")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
