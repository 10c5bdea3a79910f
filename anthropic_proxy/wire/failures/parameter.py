"""Search for the rejected request parameter in a provider's error message.

It is used for errors without a field `param`.
"""

import re

_NAME = r"[`'\"](?P<{}>[\w.\[\]]{{1,200}})[`'\"]"
_PATH = r"(?<![\w.\[\]])(?P<{}>[\w.\[\]]{{1,200}})"
"""Pattern of a parameter path such as `tools[0].name`. It begins at the start of a word, which limits the search
time."""
_PARAMETERS = re.compile(
    r"(?:unsupported|unknown|unrecognized|invalid) (?:parameter|name|request argument supplied|field)s?:? "
    rf"{_NAME.format('named')}"
    rf"|{_NAME.format('quoted')} (?:is|are) not supported"
    r"|does not support (?:the )?(?:parameter )?[`'\"]?(?P<unknown>\w+(?:\.\w+)*)[`'\"]?(?: parameter)?(?:[.,;]|$)"
    r"|only 1 is allowed for (?P<fixed>temperature)|invalid (?P<held>\w+): only\b"
    rf"|{_PATH.format('extra')}: extra (?:inputs|fields)"
    r"|extra_forbidden['\"], *['\"]loc['\"]: *[\[(]['\"]body['\"], *(?P<place>[^\])]{1,300})"
    rf"|{_PATH.format('variant')}: unknown variant"
    rf"|property {_NAME.format('property')} is unsupported"
    r"|\b(?P<bare>\w{1,200})[`'\"]? is not supported with this model"
    r"|(?P<limit>max_(?:completion_)?tokens)\W{1,2}(?:must be|is too large|exceeds|value\b|\(\d+\) exceeds)"
    r"|\b(?P<thinking>think) value .{1,80} is not supported"  # Ollama, also at /v1
    r"|(?P<choice>tool_choice) '\w+' is incompatible"
    r"|(?P<definition>invalid (?:json )?schema for (?:function|tool)\b)",
    re.IGNORECASE,
)
_STEP = re.compile(r"[\w-]+")


def find_parameter_in_message(message: str) -> str | None:
    """Return the name or path of the request parameter that an error message rejects. None: no parameter is found."""
    match = _PARAMETERS.search(message)
    if match is None:
        return None
    if place := match["place"]:  # as Python or JSON writes a list: `'tools', 0, 'strict'`
        return ".".join(_STEP.findall(place))
    if match["definition"]:
        return "tools.parameters"
    return next(name for name in match.groups() if name)
