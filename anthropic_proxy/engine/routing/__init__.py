"""Selection of the provider, model and API key for a client request, and limits on upstream calls.

Clients usually request a Claude model. A backend model is the provider's model that replies in its place.
"""
