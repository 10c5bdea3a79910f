"""Provider traffic on each wire: the smallest replies and errors in which a fault can be hidden.

The shapes are those of the stand-ins in `tests.support.fakes`, which restate recorded traffic.
"""

from tests.faults.protocols.gemini import Gemini
from tests.faults.protocols.ollama import Ollama
from tests.faults.protocols.openai import Chat, Groq, Responses
from tests.faults.protocols.protocol import ANSWERED, BEGUN, PIECES, USAGE, WHOLE, ProviderProtocol, literal
from tests.faults.protocols.relay import Relay

__all__ = ["ANSWERED", "BEGUN", "PIECES", "USAGE", "VOICES", "WHOLE", "Voice", "literal"]

PROTOCOLS: tuple[ProviderProtocol, ...] = (
    Chat("chat", "openai", "openai/gpt-4.1", "OPENAI_BASE_URL", "/v1", (("OPENAI_API_KEY", "sk-lab-openai-0001"),)),
    Responses("responses", "openai", "openai/gpt-5.5", "OPENAI_BASE_URL", "/v1"),
    Gemini("gemini", "google", "gemini/gemini-3.6-flash", "GEMINI_BASE_URL", "", (("GEMINI_API_KEY", "lab-gemini-1"),)),
    Gemini("vertex", "vertex", "vertex_ai/gemini-3.6-flash", "VERTEX_BASE_URL", "", (("VERTEX_PROJECT", "lab"),)),
    Ollama("ollama", "ollama", "ollama/llama3", "OLLAMA_API_BASE", framing="ndjson"),
    Relay(
        "relay", "anthropic", "claude-sonnet-4-5", "ANTHROPIC_UPSTREAM_URL", "", (("ANTHROPIC_API_KEY", "lab-ant-1"),)
    ),
    Groq(
        "groq", "groq", "groq/llama-3.3-70b-versatile", "GROQ_BASE_URL", "/v1", (("GROQ_API_KEY", "gsk_lab_groq_01"),)
    ),
)
