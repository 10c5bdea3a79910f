"""Our translation of requests beside LiteLLM's: every difference is known, and has a reason."""
