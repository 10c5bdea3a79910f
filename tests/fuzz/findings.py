"""Failing inputs: distinguished by the place of the failure, minimized, stored as files."""

import hashlib
import time
import traceback
from collections.abc import Callable
from pathlib import Path

KEPT = Path(__file__).parent / "kept"
SLOW_SECONDS = 2.0
"""Processor time for one input of at most 64 KiB, on any machine: most inputs take less than a millisecond."""
SLOW = "takes too long"
_MAX_TRIES = 400


class Findings:
    """Those of one target in one run."""

    def __init__(self, name: str, check: Callable[[bytes], None]) -> None:
        self._name = name
        self._check = check
        self.seen: dict[str, Path] = {}
        """Kind of failure → file of the first input that caused it."""

    def try_input(self, data: bytes) -> bool:
        """Feed one input; whether it broke something that nothing had broken before."""
        broken = find_breach(self._check, data)
        if broken is None or broken in self.seen:
            return False
        if broken != SLOW:  # to shrink it would take as long again and again
            data = shrink(data, lambda smaller: find_breach(self._check, smaller) == broken)
        folder = KEPT / self._name
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / hashlib.sha256(data).hexdigest()[:12]
        file.write_bytes(data)
        self.seen[broken] = file
        return True


def find_breach(check: Callable[[bytes], None], data: bytes) -> str | None:
    """Return how an input breaks a promise, as a text that other inputs of the kind share; None: it does not."""
    before = time.process_time()
    try:
        check(data)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what was looked for
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "anthropic_proxy" in frame.filename and "tests" not in frame.filename]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else ""
        return f"{type(error).__name__} {place} {'' if ours else _words_of(error)}".strip()
    if time.process_time() - before > SLOW_SECONDS:
        return SLOW
    return None


def _words_of(error: Exception) -> str:
    """Return the last line of a message without its figures; for a logged traceback, the exception."""
    lines = str(error).strip().splitlines() or [""]
    places = [line.strip().rpartition(", in ")[2] for line in lines if line.lstrip().startswith("File ")]
    words = f"{places[-1] if places else ''} {lines[-1]}"
    return "".join(character for character in words if character.isalpha() or character == " ")[:80]


def shrink(data: bytes, still: Callable[[bytes], bool]) -> bytes:
    """Return a smaller input that does the same."""
    tries, length = 0, len(data) // 2
    while length and tries < _MAX_TRIES:
        place = 0
        while place < len(data) and tries < _MAX_TRIES:
            smaller = data[:place] + data[place + length :]
            tries += 1
            if still(smaller):
                data = smaller
            else:
                place += length
        length //= 2
    return data
