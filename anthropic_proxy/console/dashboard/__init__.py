"""The dashboard: web pages at `/dashboard` about requests, costs and failures.

The data comes from the ledger, the database of client requests. The plugin in `routes` is enabled if the packages of
the extra `dashboard` are installed.
"""
