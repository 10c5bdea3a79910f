"""Fuzzing. For any bytes that come in: an answer or an error of our own tree, within bounds. Nothing else may go out.

`targets` defines the inputs and the invariants, `mutations` makes bytes that are almost right, `campaign` feeds them
under the guidance of coverage, `findings` keeps the failing inputs in `kept/<target>/`: `test_fuzz` replays it.
"""
