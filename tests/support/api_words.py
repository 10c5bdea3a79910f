"""The vocabulary of the Messages API by the types of the official SDK, for `cli/case_words.json`."""

from collections import defaultdict
from typing import Any, Literal, get_args, get_origin

from anthropic.types import ErrorResponse, Message, RawMessageStreamEvent
from anthropic.types.beta import BetaMessage, BetaRawMessageStreamEvent
from pydantic import BaseModel
from typing_extensions import is_typeddict

from tests.support.api_fields import REQUESTS, list_fields

REPLIES = (Message, RawMessageStreamEvent, ErrorResponse, BetaMessage, BetaRawMessageStreamEvent)


def read_words() -> dict[str, list[str]]:
    """Return field of any object of a request or reply → the texts that the API defines as its values."""
    words: dict[str, set[str]] = defaultdict(set)
    seen = set[Any]()
    waiting: list[tuple[str, Any]] = [("", kind) for kind in (*REQUESTS, *REPLIES)]
    while waiting:
        field, annotation = waiting.pop()
        if get_origin(annotation) is Literal:
            words[field].update(value for value in get_args(annotation) if isinstance(value, str))
        elif is_typeddict(annotation) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            if annotation not in seen:
                seen.add(annotation)
                for name, inner in list_fields(annotation):
                    words[name].update(())
                    waiting.append((name, inner))
        else:
            waiting += [(field, argument) for argument in get_args(annotation) if not isinstance(argument, str)]
    return {name: sorted(words[name]) for name in sorted(words)}
