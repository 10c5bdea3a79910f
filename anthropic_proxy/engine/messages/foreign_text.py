"""Texts that neither the user nor the client wrote, such as the text of a document, between marks of the proxy."""

import re

from anthropic_proxy.engine.patterns import compile_later

_MARK = compile_later(r"<(?=\s{0,9}/?\s{0,9}(?:page|image_description)\b)", re.IGNORECASE)
"""Begin of a mark that `enclose` writes, within a text. The bounds keep the work proportional to the text."""


def enclose(name: str, text: str, attribute: str = "") -> str:
    """Return the text between marks, which it cannot close. `name`: one of those in `_MARK`."""
    return f"<{name}{attribute}>\n{_MARK.sub('&lt;', text)}\n</{name}>"
