"""For `uvicorn server:app`. Names of Ollama models: OLLAMA_KNOWN_MODELS in .env, not OLLAMA_MODELS in this file."""

from anthropic_proxy.app import app_from_environment

app = app_from_environment()
