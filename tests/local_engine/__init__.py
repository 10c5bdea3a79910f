"""A real engine as the upstream: llama.cpp's own server, with a model of random numbers that is made here.

`scripts/ci.py engine` adds the engine to PYTHONPATH; without it these tests are skipped. The model knows letters and
a few words, and gives the same answer to the same question, so that an answer can be asked for twice.
"""
