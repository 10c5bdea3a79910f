"""Fake providers: real HTTP servers that are as strict as the real ones and run a scripted model.

Each package speaks the wire of one provider.
"""
