"""``python -m oblivion_dbm`` is the program ``oblivion-dbm``."""

from __future__ import annotations

import sys

from oblivion_dbm.cli import main

if __name__ == "__main__":
    sys.exit(main())
