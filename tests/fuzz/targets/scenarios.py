"""The golden scenarios as seats for an input: a real request, a real target, every quirk of every dialect."""

from functools import cache
from itertools import count
from pathlib import Path

from msgspec import structs

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.wire.contract import Call
from tests.golden.stage import Scenario

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDED = Path(__file__).parents[4] / "shared" / "recorded"
"""Bytes of real providers, where this checkout has them beside it."""
WIRES = ("openai_chat", "openai_responses", "gemini", "ollama", "anthropic")
LARGEST_SEED = 16 * 1024


@cache
def folders_of(wire: str) -> tuple[str, ...]:
    return tuple(sorted(folder.name for folder in (GOLDEN / wire).iterdir() if (folder / "scenario.toml").exists()))


@cache
def scenario_of(wire: str, name: str) -> Scenario:
    return Scenario(GOLDEN / wire / name)


@cache
def _call_of(wire: str, name: str) -> Call | None:
    try:
        return scenario_of(wire, name).call()
    except ProxyError:  # some scenarios show a refusal
        return None


@cache
def playable(wire: str) -> tuple[str, ...]:
    """Return the scenarios whose request can be said."""
    return tuple(name for name in folders_of(wire) if _call_of(wire, name) is not None)


def call_of(wire: str, name: str) -> Call:
    """Return a fresh call of a scenario."""
    call = _call_of(wire, name)
    assert call is not None
    numbers = count(1)
    return structs.replace(call, new_id=lambda prefix: f"{prefix}{next(numbers):022d}")


def recorded(wire: str, *endings: str) -> list[bytes]:
    """Return what real providers said in a wire; nothing where the recordings are not here."""
    files = sorted((RECORDED / wire).glob("*")) if RECORDED.is_dir() else []
    bodies = (file.read_bytes() for file in files if file.suffix in endings and ".request" not in file.name)
    return [body for body in bodies if len(body) <= LARGEST_SEED]
