"""Inspection of texts by plugins (`Inspector`): of requests before they leave, of replies before the client gets them.

Imported with the first request of an engine that has inspectors.
"""
