"""Selection of the provider, model and API key for a client request, and limits on upstream calls.

A backend model is a model of a provider that replies in place of the requested Claude model.
"""
