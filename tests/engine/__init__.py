"""A real engine as the upstream: llama.cpp's own server, with a model of random numbers that is made here.

`scripts/engine` puts the engine where Python finds it; without it these tests are skipped. The model knows letters and
a few words, and says the same to the same question, so that what it says can be asked for twice.
"""
