"""Compare the token estimate with the counts that providers reported, and fit its constants.

    python -m bench.token_counts read FOLDER    facts of the recordings in FOLDER → bench/token_counts.tsv
    python -m bench.token_counts fit            constants of each family, and the errors before and after

A recording is a file of VCR (`interactions:` with request and response, YAML). The table has numbers only: what a
request contains as the engine counts it, and the input tokens that the provider reported. Requests whose count has
other input (tools of the provider, files it stores, schemas of replies, replayed reasoning) are left out, those that
repeat one sentence to reach a length, and PDFs for Claude over Converse, which reads some as text and some as pages.
"""

import csv
import json
import statistics
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
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
)
from anthropic_proxy.engine.providers.token_families import FAMILIES_FILE, find_token_family
from anthropic_proxy.errors import ProxyError

TABLE = Path(__file__).with_suffix(".tsv")
MIN_LARGE_TOKENS = 1_000
"""Reported tokens above which a request counts as large. In smaller ones, text of the provider dominates."""


class CountedRequest(Struct, frozen=True):
    """One row of the table."""

    recording: int
    """Number of the recording. Requests of one recording have the same number: turns of one conversation."""
    provider: str
    model: str
    characters: int
    """Size of the request as a Messages API request in JSON, without base64."""
    reported: int
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

_PROVIDERS = (
    *(("anthropic.com", "anthropic"), ("openai.azure", "azure"), ("openai.com", "openai"), ("bedrock", "bedrock")),
    *(("generativelanguage", "gemini"), ("aiplatform", "vertex"), ("groq", "groq"), ("deepseek", "deepseek")),
    *(("mistral", "mistral"), ("openrouter", "openrouter"), ("cerebras", "cerebras"), ("z.ai", "zai")),
    *(("huggingface", "huggingface"), ("snowflake", "snowflake"), ("crusoe", "crusoe"), ("cohere", "cohere")),
    *(("x.ai", "xai"), ("moonshot", "moonshot"), ("azure", "azure"), ("ollama", "ollama")),
)
"""A part of a host name → the provider."""
Json = dict[str, Any]


class _Unsuitable(Exception):
    """The count of a request has input that the engine cannot see."""


def read_recordings(folder: Path) -> Iterator[CountedRequest]:
    import yaml  # noqa: PLC0415  # only the reading of recordings needs it

    seen: set[tuple[Any, ...]] = set()
    for number, path in enumerate(sorted(folder.rglob("*.yaml"))):
        try:
            recording = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (yaml.YAMLError, ValueError, RecursionError):
            continue
        for exchange in recording.get("interactions", []) if isinstance(recording, dict) else []:
            try:
                row = _read_exchange(number, exchange)
            except (_Unsuitable, ProxyError, KeyError, TypeError, AttributeError, ValueError, IndexError):
                continue
            key = (row.provider, row.model, row.characters, row.reported)
            if key not in seen:
                seen.add(key)
                yield row


def _read_exchange(number: int, exchange: Json) -> CountedRequest:
    request, response = exchange["request"], exchange["response"]
    url = urlsplit(request["uri"])
    sent = request.get("parsed_body") or json.loads(request["body"])
    model, convert, last = str(sent.get("model", "")), _CONVERTERS.get(url.path.rpartition("/")[2]), ""
    if convert is None:
        path, _, last = url.path.rpartition(":")
        convert, model = _CONVERTERS[last], unquote(path.rpartition("/")[2])
    elif convert is _from_converse:
        model = unquote(url.path.split("/")[-2])
    body: Json = convert(sent)
    reported = max((_reported(usage) for usage in _find_usages(response)), default=0)
    if reported <= 0 or not body["messages"]:
        raise _Unsuitable
    source = json.dumps({"model": "m", "max_tokens": 1, **body}).encode()
    plain = json.dumps(_without_data(body)).encode()
    _require(len(plain) < 2_000 or len(zlib.compress(plain)) > len(plain) / 10)  # one sentence again and again
    facts = collect_token_facts(decode_request(source))
    _require(convert is not _from_converse or "claude" not in model or not facts.pages)
    provider = next((name for part, name in _PROVIDERS if part in (url.hostname or "")), "")
    _require(provider and not model.startswith(("arn:", "compound")))
    facts.text, facts.tool_text, facts.page_text = (
        round(amount, 1) for amount in (facts.text, facts.tool_text, facts.page_text)
    )
    return CountedRequest(number, provider, model, len(plain), reported, facts)


def _without_data(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "" if key == "data" else _without_data(member) for key, member in value.items()}
    return [_without_data(member) for member in value] if isinstance(value, list) else value


def _find_usages(response: Json) -> Iterator[Json]:
    body = response.get("parsed_body") or response.get("body")
    if isinstance(body, dict) and isinstance(body.get("string"), str | bytes):
        body = body["string"]
    if isinstance(body, bytes):
        body = body.decode(errors="replace")
    parts = [body] if isinstance(body, dict) else []
    if isinstance(body, str):
        for line in body.splitlines():
            text = line.removeprefix("data:").strip()
            if text.startswith("{"):
                parts.append(json.loads(text))
    for part in parts:
        for holder in (part, part.get("message"), part.get("response")):
            for name in ("usage", "usageMetadata"):
                if isinstance(holder, dict) and isinstance(holder.get(name), dict):
                    yield holder[name]


def _reported(usage: Json) -> int:
    if usage.get("server_tool_use") and any(usage["server_tool_use"].values()):
        raise _Unsuitable
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
    messages = _Messages()
    for message in sent["messages"]:
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
            schema = tool.get("parametersJsonSchema") or tool.get("parameters")
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


def write_table(rows: Sequence[CountedRequest]) -> None:
    fields = TokenFacts.__struct_fields__
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("recording", "provider", "model", "characters", "reported", *fields))
        numbers: dict[int, int] = {}
        for row in rows:
            number = numbers.setdefault(row.recording, len(numbers))
            images = " ".join("x".join(map(str, size)) if size else "?" for size in row.facts.images)
            facts = [images if name == "images" else getattr(row.facts, name) for name in fields]
            writer.writerow((number, row.provider, row.model, row.characters, row.reported, *facts))


def read_table() -> list[CountedRequest]:
    rows = []
    with TABLE.open(newline="") as file:
        for cells in csv.DictReader(file, delimiter="\t"):
            images = [
                None if size == "?" else (int(size.split("x")[0]), int(size.split("x")[1]))
                for size in cells.pop("images").split()
            ]
            names = ("recording", "provider", "model", "characters", "reported")
            row = {name: cells.pop(name) for name in names}
            row["facts"] = msgspec.convert({**cells, "images": images}, TokenFacts, strict=False)
            rows.append(msgspec.convert(row, CountedRequest, strict=False))
    return rows


# Fit

_BOUNDS = {
    "per_request": (0.0, 80.0),
    "per_message": (0.0, 12.0),
    "per_call": (0.0, 30.0),
    "per_result": (0.0, 30.0),
    "any_tool": (0.0, 700.0),
    "per_tool": (0.0, 100.0),
    "per_property": (0.0, 4.0),
    "text": (0.95, 1.7),
    "tool_text": (0.9, 1.5),
    "image_base": (0.0, 1_000.0),
    "per_image_unit": (0.0, 3.0),
    "per_page": (100.0, 4_000.0),
    "page_text": (0.0, 2.0),
}
"""Constant → minimum and maximum of its fitted value."""
_IMAGE_CONSTANTS = ("image_base", "per_image_unit")
_START_WEIGHT = 0.02
"""Weight of the distance from the start values, so that a constant with few requests stays near them."""
_ROUNDS = 12
_MAX_SHARE = 0.1
"""Maximum share of one request in the fit of a family."""
_EASE = 20
"""Tokens that are added to the count before an error is divided by it. In a request of 10 tokens one is 10 %."""
_PAGE_RANGE = 1.25
"""Maximum factor between the start value of a page and its fitted value, because few requests have PDFs."""


def _parts(facts: TokenFacts, family: TokenFamily) -> list[float]:
    """Return the factors of the constants in `_BOUNDS` in the estimate of a request."""
    units = sum(count_image_units(size, family) for size in facts.images)
    has_tools = min(facts.tools, 1)
    amounts = [1, facts.messages, facts.calls, facts.results, has_tools, facts.tools, facts.tool_marks]
    return [*amounts, facts.text, facts.tool_text, len(facts.images), units, facts.pages, facts.page_text]


def fit_family(rows: Sequence[CountedRequest], start: TokenFamily) -> TokenFamily:
    """Return a family with the constants of least absolute relative error, near those of `start`.

    Coordinate descent on squares whose weights follow from the errors of the round before.
    """
    bounds_by_name = dict(_BOUNDS, per_page=(start.per_page / _PAGE_RANGE, start.per_page * _PAGE_RANGE))
    bounds_by_name["per_request"] = 0.0, start.per_request + 8
    if start.image_rule not in ("area", "patches"):  # rules whose constants are published
        bounds_by_name |= {name: (at := float(getattr(start, name)), at + 1e-9) for name in _IMAGE_CONSTANTS}
    names, bounds = list(bounds_by_name), list(bounds_by_name.values())
    spans = [high - low for low, high in bounds]
    at_start = [float(getattr(start, name)) for name in names]
    values = list(at_start)
    examples = []
    # large requests matter, because they fill context windows, but none decides alone
    importances = [0.2 + min(row.reported, 1_000) / 500 for row in rows]
    most = _MAX_SHARE * sum(importances)
    for row, importance in zip(rows, importances, strict=True):
        scale = 1 / (row.reported + _EASE)
        examples.append(
            ([part * scale for part in _parts(row.facts, start)], row.reported * scale, min(importance, most))
        )
    everything = range(len(names))
    for _ in range(_ROUNDS):
        matrix = [[0.0] * len(names) for _ in names]
        target = [0.0] * len(names)
        for parts, wanted, importance in examples:
            error = abs(sum(map(float.__mul__, parts, values)) - wanted)
            weight = importance / max(error, 0.02)
            used = [i for i in everything if parts[i]]
            for i in used:
                scaled = weight * parts[i]
                target[i] += scaled * wanted
                for j in used:
                    matrix[i][j] += scaled * parts[j]
        for i in everything:
            weight = _START_WEIGHT * 100 / max(spans[i], 0.1) ** 2
            matrix[i][i] += weight
            target[i] += weight * at_start[i]
        for _ in range(30):
            for i in everything:
                others = sum(map(float.__mul__, matrix[i], values)) - matrix[i][i] * values[i]
                values[i] = min(max((target[i] - others) / matrix[i][i], bounds[i][0]), bounds[i][1])
    return structs.replace(start, **{name: round(value, 2) for name, value in zip(names, values, strict=True)})


def _starts() -> dict[str, TokenFamily]:
    """Return the families before the fit: how they count images, as their providers describe it."""
    claude = TokenFamily(any_tool=450, text=1.12, per_page=1_700, page_text=1)
    openai = TokenFamily(
        image_rule="tiles", image_base=85, per_image_unit=170, max_image_units=16, per_page=250, page_text=1
    )
    gemini = TokenFamily(per_request=0, per_message=0, any_tool=0, image_rule="flat", per_image_unit=0, per_page=258)
    starts = {
        "claude": claude,
        "claude-5": structs.replace(claude, text=1.5, max_image_units=4_784, per_page=1_600, page_text=1.4),
        "openai": openai,
        "openai-mini": structs.replace(
            openai, image_rule="patches", image_base=0, per_image_unit=1.62, max_image_units=1_536
        ),
        "openai-nano": structs.replace(
            openai, image_rule="patches", image_base=0, per_image_unit=2.46, max_image_units=1_536
        ),
        "gpt-oss": structs.replace(openai, per_request=68),
        "gemini-2": structs.replace(gemini, image_base=0, image_rule="cells", per_image_unit=258, max_image_units=65),
        "gemini-2.5": structs.replace(gemini, image_base=258),
        "gemini-3": structs.replace(gemini, image_base=1_100, per_page=560),
        "deepseek": TokenFamily(per_page=800, any_tool=270),
        "deepseek-4": TokenFamily(per_page=800, any_tool=270, per_request=75),
        "glm": TokenFamily(per_page=800),
        "mistral": TokenFamily(per_page=800, image_rule="rows of 28", max_image_units=3_080),
        "pixtral": TokenFamily(per_page=100, page_text=1, image_rule="rows of 16", max_image_units=4_160),
        "llama-4": TokenFamily(per_page=100, page_text=1, image_rule="canvas", per_image_unit=145, max_image_units=17),
        "nova": TokenFamily(per_page=3_000, image_rule="flat", image_base=1_825, per_image_unit=0),
        "nova-2": TokenFamily(per_page=3_000),
    }
    return {name: structs.replace(family, name=name) for name, family in starts.items()}


def fit_families(rows: Sequence[CountedRequest]) -> dict[str, TokenFamily]:
    return {name: fit_family(_of_family(rows, name), start) for name, start in _starts().items()}


def _of_family(rows: Sequence[CountedRequest], name: str) -> list[CountedRequest]:
    return [row for row in rows if find_token_family(row.model).name == name]


def _print_errors(rows: Sequence[CountedRequest]) -> None:
    estimates = {}
    for name, start in _starts().items():
        members = _of_family(rows, name)
        for recording in {row.recording for row in members}:
            family = fit_family([row for row in members if row.recording != recording], start)
            estimates |= {id(row): estimate_tokens(row.facts, family) for row in members if row.recording == recording}
    print("Errors in %: before, and after with constants fitted without the same recording.")
    print(f"{'':34}  n  before: median  p90   after: median  p90")
    groups: dict[str, list[CountedRequest]] = {}
    for row in rows:
        size = "above 1000" if row.reported > MIN_LARGE_TOKENS else "up to 1000"
        for group in (
            f"all, {size}",
            f"{row.provider}, {row.kind}, {size}",
            f"{find_token_family(row.model).name}, {size}",
        ):
            groups.setdefault(group, []).append(row)
    for group, members in sorted(groups.items()):
        before = [estimate_tokens(row.facts, DEFAULT_FAMILY) / row.reported - 1 for row in members]
        after = [
            estimates.get(id(row), estimate_tokens(row.facts, DEFAULT_FAMILY)) / row.reported - 1 for row in members
        ]
        figures = [figure * 100 for errors in (before, after) for figure in (statistics.median(errors), _p90(errors))]
        print(f"{group:34} {len(members):3} {figures[0]:14.1f} {figures[1]:5.0f} {figures[2]:14.1f} {figures[3]:5.0f}")


def _p90(errors: Sequence[float]) -> float:
    ordered = sorted(map(abs, errors))
    return ordered[min(len(ordered) * 9 // 10, len(ordered) - 1)]


def _write_families(families: Mapping[str, TokenFamily]) -> None:
    lines = [
        json.dumps(
            {
                field: value
                for field in TokenFamily.__struct_fields__
                if (value := getattr(family, field)) != getattr(DEFAULT_FAMILY, field)
            }
        )
        for family in families.values()
    ]
    FAMILIES_FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")


def main() -> None:
    match sys.argv[1:]:
        case ["read", folder]:
            write_table(list(read_recordings(Path(folder))))
        case ["fit"]:
            rows = read_table()
            _write_families(fit_families(rows))
            _print_errors(rows)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
