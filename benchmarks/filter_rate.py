"""How often a table's filter lets an absent key through.

    python benchmarks/filter_rate.py

Builds the filter of a table, with the kernel that tables are written with, and asks it
for keys that are not in it. Beside it stands what was weighed against it: one 64-bit word
for each key, at the same bits a key and the number of bits set that serves it best.
"""

from __future__ import annotations

import argparse
import random
from array import array
from itertools import repeat

from oblivion_dbm.engine.kernel import (
    SLOTS_PER_PAIR,
    IndexBuilder,
    filter_admits,
    hash_keys,
)

#: Home slots a record, as a table has them; see oblivion_dbm/engine/sstable.py.
SLOTS_PER_RECORD = 1.5
#: Bits that one word of 64 may set for a key.
CHOICES = range(3, 8)
KEY_LENGTH = 16


def pairs_for(records: int) -> int:
    """Return the pairs of filter words of a table with so many records.

    >>> pairs_for(32), pairs_for(33)
    (3, 4)
    """
    return -int(-SLOTS_PER_RECORD * records // SLOTS_PER_PAIR)


def pair_rate(digests: list[int], absent: list[int], pairs: int) -> float:
    """Return the part of ``absent`` that the real filter of ``digests`` lets through."""
    builder = IndexBuilder(16, pairs)
    while builder.make_room():
        pass
    builder.add(digests, repeat(29))
    words = array("Q", b"".join(builder.words()))
    slot_count = SLOTS_PER_PAIR * pairs
    return sum(filter_admits(words, slot_count, digest) for digest in absent) / len(absent)


def word_mask(digest: int, bits: int) -> int:
    """Return a word with ``bits`` bits set (fewer where two are the same) by the digest.

    >>> hex(word_mask(63 << 6 | 1, 2))
    '0x8000000000000002'
    """
    mask = 0
    for _ in range(bits):
        mask |= 1 << (digest & 63)
        digest >>= 6
    return mask


def word_rate(digests: list[int], absent: list[int], count: int, bits: int) -> float:
    """Return the part of ``absent`` that a filter of ``count`` single words lets through."""
    words = [0] * count
    for digest in digests:
        words[digest * count >> 64] |= word_mask(digest, bits)
    admitted = 0
    for digest in absent:
        mask = word_mask(digest, bits)
        admitted += words[digest * count >> 64] & mask == mask
    return admitted / len(absent)


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--absent", type=int, default=200_000, help="absent keys asked for")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    source = random.Random(options.seed)
    print(f"{'records':>10}  {'bits a key':>10}  {'two words':>10}  {'one word':>10}")
    for records in options.records:
        seed = source.getrandbits(64)
        digests = hash_keys((source.randbytes(KEY_LENGTH) for _ in range(records)), seed)
        absent = hash_keys((source.randbytes(KEY_LENGTH) for _ in range(options.absent)), seed)
        pairs = pairs_for(records)
        two = pair_rate(digests, absent, pairs)
        one = min(word_rate(digests, absent, 2 * pairs, bits) for bits in CHOICES)
        print(f"{records:>10,}  {128 * pairs / records:>10.2f}  {two:>10.2%}  {one:>10.2%}")


if __name__ == "__main__":
    main()
