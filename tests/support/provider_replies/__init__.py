"""Replies with every field that the providers send, also those that the proxy ignores; all texts are our own.

Golden cases hold only the fields that matter. Here the shapes are complete, so that an ignored field cannot break a
decoder. Each module names the public pages with the shapes; traffic observed until 2026-11 has the same.
"""
