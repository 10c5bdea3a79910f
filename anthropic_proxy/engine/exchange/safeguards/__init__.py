"""Auto mode: the check of a reply's tool calls that a client requests with the field `safeguards`.

`rules` has the calls that are harmless without a question to a model, `transcript` what the user wrote, `prompt` what
the checking model reads, `verdict` how its reply is read, and `check` the checks of one reply: when they start, how
long the reply waits, and the answer.
"""
