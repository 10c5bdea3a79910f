"""Strict servers of the user's own, each with one or two deviations that no table of the proxy names.

Two of them give no reason for a refusal.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from tests.support.fakes.compatible.kinds import Head, Kind, Model, ReplyWithReasoning, send_json
from tests.support.fakes.compatible.local import LOCAL, check
from tests.support.fakes.compatible.server import Compatible
from tests.support.fakes.openai_chat.failures import ErrorResponse
from tests.support.fakes.server import ContractViolation, RequestLog, new_application

Body = dict[str, Any]
Rule = Callable[[Body, Model], str]
"""Body → refusal; empty: accepted."""


@dataclass(frozen=True)
class Quirk:
    """The deviations of one server."""

    rules: tuple[Rule, ...] = ()
    own_fields: tuple[str, ...] = ()
    """Request fields that it knows beside those of the strictest local server."""
    model: str = "my-model"
    facts: Model = field(default_factory=lambda: Model(65_536, 65_536, schemas=True, pictures=True))
    explains: bool = True
    """False: every refusal has the same text."""
    pieces: bool = True
    """True if arguments of calls come in fragments, as at OpenAI."""
    tags: str = ""
    """Tags of reasoning in the text: `opened`, both tags; `unopened`, only the last one; empty: a field of its own."""
    sends_usage: bool = True
    thinking_field: str = "reasoning_content"
    limit_field: str = "max_tokens"
    """Field that it obeys. The other one is refused, or ignored if it is in `own_fields`."""


def _refuse_field(name: str) -> Rule:
    return lambda body, model: f"{name}: Extra inputs are not permitted" if name in body else ""


def _refuse_role(body: Body, model: Model) -> str:
    odd = [one for one in body["messages"] if one["role"] == "developer"]
    return "Unexpected message role: developer" if odd else ""


def _refuse_text_after_results(body: Body, model: Model) -> str:
    roles = [message["role"] for message in body["messages"]]
    odd = ("tool", "user") in itertools.pairwise(roles)
    return "Unexpected role 'user' after role 'tool'" if odd else ""


def _refuse_null_content(body: Body, model: Model) -> str:
    odd = any("content" in message and message["content"] is None for message in body["messages"])
    return "content: none is not an allowed value" if odd else ""


def _refuse_long_ids(body: Body, model: Model) -> str:
    ids = [call["id"] for message in body["messages"] for call in message.get("tool_calls") or ()]
    odd = [one for one in ids if len(one) != 9 or not one.isalnum()]
    return f"Tool call id was {odd[0]} but must be a-z, A-Z, 0-9, with a length of 9." if odd else ""


def _refuse_strict(body: Body, model: Model) -> str:
    odd = [tool for tool in body.get("tools") or () if "strict" in tool["function"]]
    return "tools[0].function.strict: Extra inputs are not permitted" if odd else ""


def _refuse_forced_tool(body: Body, model: Model) -> str:
    choice = body.get("tool_choice", "auto")
    return "tool_choice: only auto and none are supported" if choice not in ("auto", "none") else ""


def _refuse_format(body: Body, model: Model) -> str:
    wanted = (body.get("response_format") or {}).get("type")
    return "response_format: only text is supported" if wanted not in (None, "text") else ""


def _refuse_references(body: Body, model: Model) -> str:
    odd = [tool for tool in body.get("tools") or () if "$ref" in str(tool)]
    return "tools[0].function.parameters: $ref is not supported" if odd else ""


def _refuse_effort(body: Body, model: Model) -> str:
    effort = body.get("reasoning_effort")
    listed = ", ".join(model.efforts)
    return f"reasoning_effort must be one of {listed}" if effort is not None and effort not in model.efforts else ""


def _refuse_image_types(body: Body, model: Model) -> str:
    return "unsupported image type image/webp" if "data:image/webp" in json.dumps(body["messages"]) else ""


_THINKER = Model(65_536, 16_384, ("low", "medium", "high"), "unless_off", schemas=True)
QUIRKS: dict[str, Quirk] = {
    "completion_limit": Quirk(
        (_refuse_field("max_tokens"),), ("max_completion_tokens",), limit_field="max_completion_tokens"
    ),
    "no_developer": Quirk(
        (_refuse_role,), ("max_completion_tokens",), model="gpt-6-luna-mine", limit_field="max_completion_tokens"
    ),
    "no_parallel_calls": Quirk((_refuse_field("parallel_tool_calls"),)),
    "no_images": Quirk(facts=Model(65_536, 65_536, schemas=True)),
    "no_webp": Quirk((_refuse_image_types,)),
    "tags": Quirk(tags="unopened", facts=Model(65_536, 65_536, thinks="always", schemas=True, pictures=True)),
    "whole_calls": Quirk((_refuse_references,), pieces=False),
    "no_usage": Quirk(sends_usage=False),
    "reasoning": Quirk((_refuse_effort,), ("reasoning_effort",), facts=_THINKER),
    "unknown_a": Quirk(
        (_refuse_field("stream_options"), _refuse_long_ids, _refuse_text_after_results, _refuse_strict), explains=False
    ),
    "unknown_b": Quirk(
        (_refuse_null_content, _refuse_forced_tool, _refuse_format, _refuse_field("temperature")), explains=False
    ),
}
"""Name → server. The last two give no reason for a refusal."""


def _check(quirk: Quirk) -> Callable[[Body, Model], Iterator[ContractViolation]]:
    def check_request(body: Body, model: Model) -> Iterator[ContractViolation]:
        for rule in quirk.rules:
            if text := rule(body, model):
                yield ContractViolation("quirk", text)
                return
        plain = {name: value for name, value in body.items() if name not in quirk.own_fields}
        yield from check(plain, model)

    return check_request


def _chunks(quirk: Quirk) -> Callable[[ReplyWithReasoning, Head, bool], Iterator[Body]]:
    def encode(reply: ReplyWithReasoning, head: Head, asked: bool) -> Iterator[Body]:
        head = head | {"object": "chat.completion.chunk"}
        for delta in _deltas(quirk, reply):
            yield head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield head | {"choices": [{"index": 0, "delta": {}, "finish_reason": reply.generated.finish}]}
        if asked and quirk.sends_usage:
            yield head | {"choices": [], "usage": reply.usage}

    return encode


def _deltas(quirk: Quirk, reply: ReplyWithReasoning) -> Iterator[Body]:
    yield {"role": "assistant", "content": ""}
    name = "content" if quirk.tags else quirk.thinking_field
    thoughts = [*reply.reasoning, "</think>\n"] if quirk.tags and reply.reasoning else reply.reasoning
    yield from ({name: piece} for piece in thoughts)
    yield from ({"content": piece} for piece in reply.generated.text)
    for index, (identity, function, pieces) in enumerate(reply.generated.calls):
        start = {"name": function, "arguments": "" if quirk.pieces else "".join(pieces)}
        yield {"tool_calls": [{"index": index, "id": identity, "type": "function", "function": start}]}
        for piece in pieces if quirk.pieces else ():
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _refusal(quirk: Quirk, breach: ContractViolation) -> ErrorResponse:
    if not quirk.explains:
        return send_json(400, {"detail": "Bad Request"})
    return send_json(400, {"error": {"message": breach.message, "type": "BadRequestError", "code": 400}})


def kind_of(name: str) -> Kind:
    """Return the server of that name."""
    quirk = QUIRKS[name]
    thinks = quirk.facts.thinks
    return replace(
        LOCAL,
        name=name,
        models={quirk.model: quirk.facts},
        thinking_field=quirk.thinking_field,
        check=_check(quirk),
        thinks=lambda body, model: thinks == "always" or (thinks == "unless_off" and "reasoning_effort" in body),
        call_id=lambda body, function, number: f"c{len(body['messages']):04d}{number:04d}",
        refuse_breach=lambda breach: _refusal(quirk, breach),
        chunks=_chunks(quirk),
    )


class QuirkServer(Compatible):
    """A server that also lists its model."""

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"object": "list", "data": [{"id": name} for name in self.kind.models]})
        return await super().answer(request, raw, journal)


def new_quirk_server(name: str) -> web.Application:
    return new_application(QuirkServer(kind_of(name), "").answer, RequestLog())
