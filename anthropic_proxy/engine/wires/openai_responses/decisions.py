"""The Decisions API of OpenAI: questions with fixed choices about a text, which the model answers with probabilities.

A model that offers it (`Dialect.offers_decisions`) answers the checks of tool calls by it. It writes no text, so there
is no form that it could miss. If the server rejects the request, it is repeated as a request for text. Source: the
official SDK `openai` 3.51, `resources/decisions.py` and `types/decision.py`.
"""

import json
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.messages.deltas import Delta, Stop, Text, Usage
from anthropic_proxy.engine.messages.models import TextBlock
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import Decoder
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS
from anthropic_proxy.engine.wires.message_encoder import join_system_prompt
from anthropic_proxy.engine.wires.openai_responses.dialect import Dialect
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest

PATH = "/decisions"
WITHOUT_DECISIONS = "drop decisions"
"""Name of an adaptation: the model is asked for text."""


class _Probability(Struct, frozen=True):
    value: str | bool = ""
    probability: float = -1.0


class _Answer(Struct, frozen=True):
    type: str = ""
    name: str | None = None
    choice: str | bool = ""
    probabilities: list[_Probability] = []


class _Details(Struct, frozen=True):
    cached_tokens: int = 0


class _Usage(Struct, frozen=True):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _Details = _Details()


class _Decision(Struct, frozen=True):
    answers: list[_Answer]
    usage: _Usage | None = None


_decode_decision = msgspec.json.Decoder(_Decision).decode


def is_decision(call: TranslatedCall[Dialect]) -> bool:
    return bool(call.request.questions) and call.dialect.offers_decisions


def encode_decision(call: TranslatedCall[Dialect]) -> UpstreamRequest:
    request = call.request
    texts = (block.text for one in request.messages for block in one.blocks if isinstance(block, TextBlock))
    instructions = join_system_prompt(request)
    contents = [("system", instructions)] if instructions is not None else []
    contents += [("user", text) for text in texts]
    messages = [{"type": "message", "role": role, "content": content} for role, content in contents]
    questions: list[dict[str, Any]] = []
    for one in request.questions:
        choices = [{"value": value} for value in one.choices]
        questions.append({"type": "choice", "name": one.name, "instructions": one.instructions, "choices": choices})
    body = {"model": call.model, "input": messages, "questions": questions}
    return UpstreamRequest(path=PATH, body=msgspec.json.encode(body), headers={}, enforces_schema=True)


class DecisionDecoder(Decoder):
    """The text of the reply is a JSON object: question → answer, with the probability of each choice."""

    def __init__(self, call: TranslatedCall[Dialect]) -> None:
        self._call = call
        self._is_read = False

    def decode_frame(self, frame: bytes) -> list[Delta]:
        return self.decode_body(frame)

    def decode_body(self, body: bytes) -> list[Delta]:
        try:
            decision = _decode_decision(body)
        except DECODE_ERRORS:
            raise self._call.build_protocol_error(" sent no decision.", code="invalid-reply") from None
        self._is_read = True
        deltas: list[Delta] = []
        if (used := decision.usage) is not None:
            cached = used.input_tokens_details.cached_tokens
            deltas.append(Usage(max(used.input_tokens - cached, 0), used.output_tokens, cached))
        if any(answer.type == "refusal" for answer in decision.answers):
            return [*deltas, Stop("refusal")]
        answers: dict[str, Any] = {}
        for answer in decision.answers:
            if answer.name:
                probabilities = {str(one.value): one.probability for one in answer.probabilities}
                answers[answer.name] = {"choice": answer.choice, "probabilities": probabilities}
        return [Text(json.dumps({"answers": answers})), *deltas, Stop("end_turn")]

    def decode_end(self) -> list[Delta]:
        if not self._is_read:
            raise self._call.build_protocol_error(" sent no decision.", code="incomplete-reply")
        return []
