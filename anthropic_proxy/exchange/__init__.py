"""Serving of one client request (an exchange), from its body to the last byte of the reply.

No module names a provider.
"""
