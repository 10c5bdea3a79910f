"""The ledger: a database with one row per client request, and hourly sums of requests, tokens and costs.

This package is a plugin, which is enabled unless `DATABASE_URL=off`.
"""
