"""The fault lab: every way in which a provider or a client can fail, on every wire, over real sockets.

`rows/` is the table, one row per fault: the events on the socket, and the expected response of the client. `upstream`
is a provider that fails as a row defines it, `protocols` how it speaks each wire, `client` the client, which may fail
too, `lab` runs rows against the server as a user starts it, `table` prints the outcomes and writes the table of
docs/guide/reliability.md.

`scripts/ci.py faults` runs all of it; the tests of this folder run a few rows of each phase.
"""
