"""The ledger: a database of client requests, with hourly sums of requests, tokens and costs.

It has one row for each request to `/v1/messages`, and for each other request that failed. The package is a plugin,
which `DATABASE_URL=off` disables.
"""
