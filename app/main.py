"""For `uvicorn app.main:app`."""

from anthropic_proxy.app import app_from_environment

app = app_from_environment()
