"""OpenAI Chat Completions, with reasoning as DeepSeek, vLLM and others send it."""
