"""Stand-in providers: real HTTP servers that are as strict as the real ones and run a scripted model.

`plans` is the scripted model and knows no wire; `skeleton` is the server with its journal; each further package speaks
one provider's wire and may be run by itself, for example `python -m tests.support.fakes.openai_chat --port 9000`.
"""
