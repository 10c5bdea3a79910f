"""What was said of one item of the output so far."""

from anthropic_proxy.wire.openai_responses.calls import OpenCall
from anthropic_proxy.wire.openai_responses.hosted import Hosted


class Said:
    """One item of the output and what was said of it."""

    __slots__ = ("call", "cited", "done", "hosted", "item_id", "part", "text")

    def __init__(self) -> None:
        self.call: OpenCall | None = None
        self.hosted: Hosted | None = None
        self.item_id: str | None = None
        self.part: tuple[str, int] | None = None
        """Kind and index of the piece of which the last fragment was."""
        self.text = False
        """Whether any of its text came as fragments."""
        self.cited = 0
        """Citations that came as events and were said."""
        self.done = False
