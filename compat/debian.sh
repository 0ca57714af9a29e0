#!/bin/sh
# Run compat/ with Debian's own Python, which has what others often lack: dbm.gnu,
# dbm.ndbm and CPython's tests.
#
#     compat/debian.sh [ARGUMENT OF PYTEST ...]
#
# Makes a virtual environment in a temporary folder (or in $OBLIVION_COMPAT_VENV, and
# keeps that one), installs this checkout into it as a user would, and runs pytest.
# Names the packages that are missing and ends with 3 if there are any.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
python=/usr/bin/python3

if [ ! -x "$python" ]; then
    echo "missing: $python; on Debian: apt-get install python3" >&2
    exit 3
fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
missing=""
has() { # IMPORT PACKAGE
    "$python" -c "import $1" 2>/dev/null || missing="$missing $2"
}
has dbm.gnu python3-gdbm
has dbm.ndbm python3-gdbm
has venv python3-venv
has ensurepip python3-venv
has test.test_dbm "libpython$version-testsuite"
has test.mapping_tests "libpython$version-testsuite"
"$python" -c 'import os, sysconfig
raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    missing="$missing python3-dev"

if [ -n "$missing" ]; then
    missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
    echo "missing: $missing" >&2
    echo "on Debian: apt-get install $missing" >&2
    exit 3
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
venv=${OBLIVION_COMPAT_VENV:-$work/venv}

# Built from a copy: what an earlier build left in the checkout is not installed.
mkdir "$work/copy"
tar -C "$here" --exclude=./.git --exclude=./.tox --exclude=./.venv --exclude=./build -cf - . |
    tar -C "$work/copy" -xf -
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    "$work/copy[test]" -r "$here/compat/requirements.txt"

echo "compat/ with Debian's Python $version: dbm.gnu, dbm.ndbm, dbm.dumb"
cd "$here"
"$venv/bin/pytest" compat "$@"
