"""Ollama's own API, `/api/chat`."""
