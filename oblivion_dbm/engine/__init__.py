"""The storage engine: a log-structured merge tree over one directory.

The modules import only from those named before them in
``tests/test_layout.py``; ``storage_engine`` is the front door.
"""
