"""Several instances of the proxy behind nginx, on one PostgreSQL and one Redis, under load while parts of it fail.

`python -m tests.fleet [seconds] [instances] [seed]` prints the requests by result, the outages, and each difference
between the ledger and the token counts that the providers sent.
"""
