"""Fuzzing. For any bytes that come in: an answer or an error of our own tree, within bounds. Nothing else may go out.

`targets` defines what is fed and what must hold, `mutations` makes bytes that are almost right, `campaign` feeds them
under the guidance of coverage, `findings` keeps what broke something in `kept/<target>/`: `test_fuzz` replays it.
"""
