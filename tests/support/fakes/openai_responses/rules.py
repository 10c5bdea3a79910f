"""OpenAI's rules on a Responses request beyond its types and its items, and the order in which they are tried."""

from collections.abc import Iterator, Mapping
from typing import Any

from openai.types.responses import response_create_params

from messages_conformance.backends.openai.messages import empty
from messages_conformance.backends.openai.rules import check_ranges
from messages_conformance.backends.responses.rules import RANGES, as_items, check_rules
from tests.support.fakes.openai_chat.models import Model
from tests.support.fakes.openai_chat.rules import refuse_parameter
from tests.support.fakes.openai_chat.shapes import check_fields
from tests.support.fakes.server import ContractViolation

_ENCRYPTED = "reasoning.encrypted_content"


class ResponsesRequest(response_create_params.ResponseCreateParamsBase, total=False):  # type: ignore[call-arg]
    """The SDK's fields of a Responses request, with the one that it declares twice."""

    stream: bool | None


def _check_ranges(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    yield from check_ranges(body, RANGES)
    limit = body.get("max_output_tokens") or 0
    if limit > model.output:
        text = (
            f"max_output_tokens is too large: {limit}. This model supports at most {model.output} output tokens, "
            f"whereas you provided {limit}."
        )
        yield ContractViolation("output_limit", text, "max_output_tokens", "invalid_value")


def _check_reasoning(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    reasoning = body.get("reasoning") or {}
    effort = reasoning.get("effort")
    if not model.reasons:
        for name in ("effort", "summary"):
            if reasoning.get(name) is not None:
                yield refuse_parameter(f"reasoning.{name}")
        if _ENCRYPTED in (body.get("include") or ()):
            yield ContractViolation("encrypted", "Encrypted content is not supported with this model.", "include")
        return
    if effort is not None and effort not in model.efforts:
        supported = ", ".join(f"'{one}'" for one in model.efforts)
        text = f"Unsupported value: '{effort}' is not supported with this model. Supported values are: {supported}."
        yield ContractViolation("effort", text, "reasoning.effort", "unsupported_value")
    if (effort or model.default_effort) != "none":
        for name in ("temperature", "top_p"):
            if body.get(name) is not None:
                yield refuse_parameter(name)
    if effort == "minimal" and any(tool["type"].startswith("web_search") for tool in body.get("tools") or ()):
        text = "The following tools cannot be used with reasoning.effort 'minimal': web_search."
        yield ContractViolation("search_effort", text, "tools")


def _check_store(body: dict[str, Any]) -> Iterator[ContractViolation]:
    if body.get("store"):
        yield ContractViolation(
            "stored", "This stand-in keeps nothing: the proxy has promised that no reply is stored.", "store"
        )


def check_body(body: dict[str, Any], model: Model, issued: Mapping[str, str]) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks; the real server would name the first."""
    items = as_items(body)
    shapes = list(check_fields({**body, "input": items} if "input" in body else body, ResponsesRequest))
    if "input" not in body:
        shapes.append(empty("input_missing", "input"))
    yield from shapes
    if any(breach.rule != "unknown_field" for breach in shapes):
        return
    yield from _check_ranges(body, model)
    yield from _check_reasoning(body, model)
    if "parallel_tool_calls" in body and not model.parallel_calls:
        yield refuse_parameter("parallel_tool_calls")
    yield from _check_store(body)
    yield from check_rules(body, items, model, issued)
