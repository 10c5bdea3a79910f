"""Tool calls found where they should not be: in what a server says it could not read."""

from collections.abc import Container

import msgspec
from msgspec import Raw, Struct


class FoundCall(Struct, frozen=True):
    """A call that was recovered."""

    name: str
    arguments: str
    """JSON text of an object, as the model wrote it."""


class _Generation(Struct):
    name: str
    arguments: Raw


_decode = msgspec.json.Decoder(_Generation).decode


def find_call(text: str, declared: Container[str]) -> FoundCall | None:
    """Return the call in a text that is one JSON object with `name` and `arguments`; None where it is no such thing.

    Only a tool that the request declared counts, and only arguments that are an object: the client checks the rest.
    """
    try:
        found = _decode(text)
        arguments = bytes(found.arguments).decode()
        if arguments.startswith('"'):  # encoded twice
            arguments = msgspec.json.decode(arguments, type=str)
        msgspec.json.decode(arguments, type=dict)
    except (msgspec.DecodeError, RecursionError):
        return None
    return FoundCall(found.name, arguments) if found.name in declared else None
