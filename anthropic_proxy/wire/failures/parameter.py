"""Parameter that an error rejects, if only the message names it."""

import re

_NAME = r"[`'\"](?P<{}>[\w.\[\]]{{1,200}})[`'\"]"
_PATH = r"(?<![\w.\[\]])(?P<{}>[\w.\[\]]{{1,200}})"
"""Begins where nothing of its kind stands before it: else each character of a long word would be tried as one."""
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
    r"|(?P<choice>tool_choice) '\w+' is incompatible"
    r"|(?P<definition>invalid (?:json )?schema for (?:function|tool)\b)",
    re.IGNORECASE,
)
_STEP = re.compile(r"[\w-]+")


def find_parameter(message: str) -> str | None:
    """Return the name or path that a refusal blames, in the provider's spelling; None: it names none."""
    match = _PARAMETERS.search(message)
    if match is None:
        return None
    if place := match["place"]:  # as Python or JSON writes a list: `'tools', 0, 'strict'`
        return ".".join(_STEP.findall(place))
    if match["definition"]:
        return "tools.parameters"
    return next(name for name in match.groups() if name)
