"""OpenAI's rules on a Chat Completions request beyond types and messages, and the order in which they are tried."""

from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.openai.rules import RANGES, check_ranges, check_rules
from tests.support.fakes.openai_chat.models import Model
from tests.support.fakes.openai_chat.shapes import check_request
from tests.support.fakes.server import ContractViolation

_DEFAULTS = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}


def refuse_parameter(name: str, hint: str = "") -> ContractViolation:
    text = f"Unsupported parameter: '{name}' is not supported with this model.{hint}"
    return ContractViolation("unsupported", text, name, "unsupported_parameter")


def _check_limits(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    if body.get("max_tokens") is not None:
        if model.reasons:
            yield refuse_parameter("max_tokens", " Use 'max_completion_tokens' instead.")
        if body.get("max_completion_tokens") is not None:
            text = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
            yield ContractViolation("two_limits", text, "max_tokens", "invalid_parameter_combination")
    for name in ("max_tokens", "max_completion_tokens"):
        value = body.get(name) or 0
        if value > model.output:
            text = (
                f"{name} is too large: {value}. This model supports at most {model.output} completion tokens, "
                f"whereas you provided {value}."
            )
            yield ContractViolation("output_limit", text, name, "invalid_value")


def _check_reasoning(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    effort = body.get("reasoning_effort")
    if not model.reasons:
        if effort is not None:
            yield ContractViolation("unsupported", "Unrecognized request argument supplied: reasoning_effort")
        return
    if effort is not None and effort not in model.efforts:
        supported = ", ".join(f"'{one}'" for one in model.efforts)
        text = (
            f"Unsupported value: 'reasoning_effort' does not support '{effort}' with this model. "
            f"Supported values are: {supported}."
        )
        yield ContractViolation("effort", text, "reasoning_effort", "unsupported_value")
    if (effort or model.default_effort) != "none":
        for name, default in _DEFAULTS.items():
            if body.get(name) not in (None, default):
                text = (
                    f"Unsupported value: '{name}' does not support {body[name]} with this model. "
                    f"Only the default ({default}) value is supported."
                )
                yield ContractViolation("sampling", text, name, "unsupported_value")
        if body.get("stop"):
            yield refuse_parameter("stop")
        if body.get("tools") and model.tools_need_no_effort:
            text = (
                "Function tools with reasoning_effort are not supported for this model. "
                "Please use /v1/responses instead."
            )
            yield ContractViolation("forced_effort_with_tools", text, "reasoning_effort")
    if "parallel_tool_calls" in body and not model.parallel_calls:
        yield refuse_parameter("parallel_tool_calls")


def check_body(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks; the real server would name the first."""
    shapes = list(check_request(body))
    yield from shapes
    if any(breach.rule != "unknown_field" for breach in shapes):
        return
    yield from check_ranges(body, RANGES)
    yield from _check_limits(body, model)
    yield from _check_reasoning(body, model)
    yield from check_rules(body, pictures=model.pictures)
