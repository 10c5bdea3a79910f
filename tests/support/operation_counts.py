"""Counts of function calls."""

from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import anthropic_proxy

PACKAGE = str(Path(anthropic_proxy.__file__).parent)
VERSIONS = ((3, 11), (3, 12), (3, 13))
INLINED = {"<listcomp>", "<dictcomp>", "<setcomp>"}
"""Frames that only CPython 3.11 makes."""
MORE = 1.03
"""Limit of a count relative to its bound: CPython versions differ by a percent."""
WARM_UPS = 3


class Calls(Counter[str]):
    """Counts calls while it is the profile function of this thread."""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            place = f"{code.co_filename[len(PACKAGE) + 1 :]}: {code.co_qualname}"
            if event == "call" and code.co_name not in INLINED:
                self[place] += 1
            elif event == "c_call":
                self[f"{place} calls {argument.__name__}"] += 1
