"""10,000 cycles of opening, writing and closing: ``tests/test_cycles.py``, for longer.

Run by hand: ``pytest tests/long/test_cycles.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CYCLES = os.environ.get("OBLIVION_DBM_CYCLES", "10000")


def test_ten_thousand_cycles_leave_nothing_behind() -> None:
    subject = Path(__file__).parent.parent / "test_cycles.py"
    environment = {**os.environ, "OBLIVION_DBM_CYCLES": CYCLES}
    command = [sys.executable, "-m", "pytest", "-q", str(subject)]
    subprocess.run(command, env=environment, check=True)
