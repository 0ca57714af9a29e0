"""Fuzz one target with atheris, which follows what code an input reaches.

    pip install '.[fuzz]'
    python tests/fuzz/run.py TARGET --minutes 10

Targets: record, log, table, manifest, store, seeds. The corpus grows in a directory outside
the repository. An input that fails is written to ``failures/TARGET``, beside this file,
where the test suite tries it from then on; the same command with its path tries it alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

with atheris.instrument_imports(include=["oblivion_dbm"]):
    from fuzz.targets import TARGETS


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("inputs", nargs="*", type=Path, help="try these alone")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument(
        "--corpus", type=Path, default=Path(tempfile.gettempdir()) / "oblivion-dbm-corpus"
    )
    return parser.parse_args()


def main() -> None:
    """Try inputs that are given, or fuzz."""
    given = arguments()
    target = TARGETS[given.target]
    if given.inputs:
        for path in given.inputs:
            target(path.read_bytes())
        return
    corpus, failures = given.corpus / given.target, HERE / "failures" / given.target
    for folder in (corpus, failures):
        folder.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": int(60 * given.minutes),
        "max_len": 1000,
        "len_control": 0,
        "timeout": 20,
        "rss_limit_mb": 2048,
        "artifact_prefix": f"{failures}/",
        "print_final_stats": 1,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(corpus), str(failures)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
