"""`exactly`: pattern for the complete text of an expected exception."""

import re


def exactly(text: str) -> str:
    """Return a regular expression that matches this text and no longer one, for `pytest.raises(…, match=…)`."""
    return rf"\A{re.escape(text)}\Z"
