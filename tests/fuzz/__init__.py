"""Fuzzing of everything that is read from a disk.

* ``memory``: a file system in memory, so that a try takes microseconds
* ``source``: decisions out of bytes: a fuzzer that changes bytes changes decisions
* ``targets``: what is tried; each takes bytes, and returns or raises what it may not raise
* ``run``: ``python tests/fuzz/run.py TARGET --minutes N``, with atheris

Inputs that once failed are kept in ``failures``; ``tests/test_fuzz.py`` tries them again,
and lets Hypothesis look for others.
"""
