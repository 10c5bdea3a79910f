"""Encoding of web page text in the field `encrypted_content` of search results.

Clients return the field unchanged with the next request, so the model sees the text again. The value consists of
`px1.web.` and the text in base64url without padding. It is not encrypted.
"""

import base64
import binascii

ENCODED_PREFIX = "px1.web."
"""Prefix that identifies an `encrypted_content` of this proxy."""
_MAX_PASSAGE_LENGTH = 16 * 1024
"""Maximum characters of an encoded passage. A longer passage is cut, because each later request contains it."""


def encode_passage(text: str) -> str:
    """Return the value of `encrypted_content` for a passage, cut after 16 Ki characters. "": no text.

    >>> encode_passage("Cold.")
    'px1.web.Q29sZC4'
    """
    if not text:
        return ""
    sealed = base64.urlsafe_b64encode(text[:_MAX_PASSAGE_LENGTH].encode(errors="replace"))
    return ENCODED_PREFIX + sealed.rstrip(b"=").decode()


def decode_passage(sealed: str) -> str:
    """Return the web page text in a value of `encrypted_content`. "": damaged, or not encoded by the proxy."""
    if not sealed.startswith(ENCODED_PREFIX):
        return ""
    text = sealed[len(ENCODED_PREFIX) :]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):  # ValueError: not ASCII, or not UTF-8 inside
        return ""
