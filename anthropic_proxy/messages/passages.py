"""What a search found, sealed into the `encrypted_content` of its result, so that it survives in the client's history.

`px1.web.` and the text in base64url without padding. Anthropic's own seal is opaque; ours hides nothing, it only
travels where clients keep what they must not touch.
"""

import base64
import binascii

PREFIX = "px1.web."
_LONGEST = 16 * 1024
"""Characters of a passage: it weighs on every later request."""


def seal_passage(text: str) -> str:
    """Return what carries this text; "" for none.

    >>> seal_passage("Cold.")
    'px1.web.Q29sZC4'
    """
    if not text:
        return ""
    sealed = base64.urlsafe_b64encode(text[:_LONGEST].encode(errors="replace"))
    return PREFIX + sealed.rstrip(b"=").decode()


def open_passage(sealed: str) -> str:
    """Return the text that one of ours carries; "" for another's, or one that is damaged."""
    if not sealed.startswith(PREFIX):
        return ""
    text = sealed[len(PREFIX) :]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):  # ValueError: not ASCII, or not UTF-8 inside
        return ""
