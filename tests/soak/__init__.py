"""Hours of an agent's work in minutes: the real server process, clients of every kind, providers that fail at random.

`python -m tests.soak [minutes] [seed]` ends with a leak check: the process uses the same resources after a pause as
before, every stream that was read to its end ended properly, and memory grew by less than 20 MiB in 3,000 requests.
"""
