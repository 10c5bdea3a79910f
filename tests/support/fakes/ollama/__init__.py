"""A strict fake server of Ollama: decodes requests as its Go structs do, and rejects the same requests.

Two things it takes worse than the real one, which passes over them in silence: fields that its structs do not have, and
requests that leave it to the server how much of a conversation is lost.
"""

from tests.support.fakes.ollama.server import new_ollama

__all__ = ["new_ollama"]
