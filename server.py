"""For `uvicorn server:app`."""

from anthropic_proxy.app import app_from_environment

app = app_from_environment()
