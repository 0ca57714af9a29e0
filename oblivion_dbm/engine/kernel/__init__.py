"""The inner loops, behind one narrow interface, chosen when first imported.

``OBLIVION_DBM_KERNEL=pure`` asks for the reference in plain Python, which is
also what is taken when nothing is asked for.  ``native`` is an ImportError
where no compiled kernel is built; it never falls back in silence.
"""

from __future__ import annotations

from oblivion_dbm.engine.filesystem import environment
from oblivion_dbm.engine.kernel.append import BUSY, Appender, Stalled, depth, refuse
from oblivion_dbm.engine.kernel.pure import Lookup, replay
from oblivion_dbm.engine.kernel.scan import SHAPES, Shape, live_keys, live_values, pairs
from oblivion_dbm.engine.kernel.tables import (
    PROBE_LIMIT,
    SLOTS_PER_PAIR,
    IndexBuilder,
    combine,
    filter_admits,
    hash_keys,
    index_holds,
    keys_of,
    split,
    start_sum,
    sum_group,
)

__all__ = [
    "BUSY",
    "NAME",
    "PROBE_LIMIT",
    "SHAPES",
    "SLOTS_PER_PAIR",
    "Appender",
    "IndexBuilder",
    "Lookup",
    "Shape",
    "Stalled",
    "combine",
    "depth",
    "filter_admits",
    "hash_keys",
    "index_holds",
    "keys_of",
    "live_keys",
    "live_values",
    "pairs",
    "refuse",
    "replay",
    "split",
    "start_sum",
    "sum_group",
]

#: The kernel that runs: "pure".
NAME = environment("OBLIVION_DBM_KERNEL", "pure")

if NAME == "native":
    raise ImportError("OBLIVION_DBM_KERNEL=native, but this installation has no compiled kernel")
if NAME != "pure":
    raise ImportError(f"OBLIVION_DBM_KERNEL must be 'pure' or 'native', not {NAME!r}")
