"""`decode_json`: decodes JSON that another program wrote, such as an identity provider, a browser or a stored value."""

from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")


class InvalidJson(ValueError):
    """Error: a text is not JSON, not UTF-8, has values of unexpected types, or is nested too deeply to be decoded."""


@overload
def decode_json(text: bytes | str) -> Any: ...
@overload
def decode_json(text: bytes | str, kind: type[T]) -> T: ...
def decode_json(text: bytes | str, kind: Any = Any) -> Any:
    """Return the value of a JSON text, as an object of the type `kind`. Raises `InvalidJson`, and nothing else.

    The caller limits the size of the text.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except RecursionError:
        raise InvalidJson("it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidJson(str(error)) from None
