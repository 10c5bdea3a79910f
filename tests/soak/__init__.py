"""Hours of an agent's work in minutes: the real server process, clients of every kind, providers that fail at random.

`python -m tests.soak [minutes] [seed]` ends with a leak check: what the process holds after a pause is what it held
before, every stream that was read to its end ended properly, and memory grew by less than 20 MiB in 3,000 requests.
"""
