"""Checks of the replies to the doctor's probes. A probe is a request that tests one feature.

Each function `check_…` returns the problem of a result as text, or an empty text if there is no problem. A failed
request is always a problem. `new_color_check` returns such a function for a picture.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence

from anthropic_proxy.lab.doctor.probe_runner import ProbeResult

Check = Callable[[ProbeResult], str]
"""Function that returns the problem of a probe's result as text. "": the result is as expected."""
_END_TAG = re.compile(r"</(?:think|thinking|thought|seed:think)>|\[/THINK\]")
"""Pattern of a tag that ends reasoning. If the tag is in the reply text for the client, a dialect field is wrong."""

_COLOR_WORDS: Mapping[str, str] = {
    "yellow": "yellow|gold",
    "purple": "purple|violet|magenta|plum",
    "green": "green",
    "black": "black",
    "": "red|blue|orange|brown|white|gr[ae]y|pink|cyan|teal|turquoise|beige",
}
"""Name of a color in the picture of a probe → pattern of words for this color. Key "": pattern of colors that no
picture has."""


def check_accepted(result: ProbeResult) -> str:
    """Return the error message if the request failed, otherwise an empty text. The reply may have any content."""
    return result.error.message if result.error is not None else ""


def check_content(result: ProbeResult) -> str:
    """Return the problem if the request failed, or if the reply has neither text nor thinking."""
    return check_accepted(result) or ("" if result.text or result.thinking else "the reply is empty")


def check_streamed_text(result: ProbeResult) -> str:
    """Return the problem if the reply is empty, or if its text contains reasoning with a tag such as `</think>`."""
    if result.error is None and (tag := _END_TAG.search(result.text)):
        return f"the text contains reasoning, which ends with {tag[0]}"
    return check_content(result)


def check_tool_call(result: ProbeResult) -> str:
    """Return the problem if the request failed, or if the model called no tool."""
    return check_accepted(result) or ("" if result.calls else "the model called no tool")


def check_truncation(result: ProbeResult) -> str:
    """Return the problem if the reply did not end because of the output limit (`max_tokens`) in the request."""
    if problem := check_accepted(result):
        return problem
    return "" if result.stop_reason == "max_tokens" else "the server ignored the output limit"


def check_stop_sequence(result: ProbeResult) -> str:
    """Return the problem if the reply did not end with one of the stop sequences in the request."""
    if problem := check_accepted(result):
        return problem
    return "" if result.stop_reason == "stop_sequence" else f"the stop reason is {result.stop_reason}"


def check_schema(result: ProbeResult) -> str:
    """Return the problem if the reply is not a JSON object with the fields of the requested schema."""
    if problem := check_accepted(result):
        return problem
    try:
        value = json.loads(result.text)
    except ValueError:
        return "the reply is not JSON"
    return "" if isinstance(value, dict) and {"city", "country"} <= value.keys() else "the reply ignores the schema"


def check_image_accepted(result: ProbeResult) -> str:
    """Return the problem if the server rejected the image, or if the proxy did not send it."""
    if problem := check_accepted(result):
        return problem
    if "images none" in result.adaptations:
        return "the server rejects images"
    dropped = [note.reason for note in result.notes if "image" in note.field and note.handling == "dropped"]
    return dropped[0] if dropped else ""


def check_image_media_types(result: ProbeResult) -> str:
    """Return the problem if the server rejected the media type of an image."""
    if problem := check_accepted(result):
        return problem
    return "the server rejects a type of the images" if "images none" in result.adaptations else ""


def new_color_check(colors: Sequence[str]) -> Check:
    """Return a check function for the reply to a picture.

    The check passes if the reply names all colors in `colors` and no other color.
    """

    def check(result: ProbeResult) -> str:
        text = result.text.lower()
        named = {color for color, words in _COLOR_WORDS.items() if re.search(rf"\b(?:{words})\b", text)}
        return "" if named == set(colors) else "accepts the picture, but the reply does not name its colors"

    return check
