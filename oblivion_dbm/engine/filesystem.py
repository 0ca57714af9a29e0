"""The one door to the operating system.

The engine does all its input and output through a ``FileSystem`` that it is
handed, so a test hands it one that records, fails or crashes.  Every
``OSError`` of the system leaves here as ``error`` with errno and file name.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from _thread import RLock
from _weakref import ref
from contextlib import ExitStack, suppress
from functools import partial
from time import monotonic, sleep

from oblivion_dbm.errors import CorruptionError, error

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock
    fcntl = None  # type: ignore[assignment]  # the module may be missing

#: Where Linux says which boot this is.
_BOOT = "/proc/sys/kernel/random/boot_id"
#: Where Linux says what is mounted.
_MOUNTS = "/proc/self/mountinfo"
#: Where Linux says whose numbers of processes this one sees.
_PROCESS_SPACE = "/proc/self/ns/pid"
#: Where no system says what a file system is, posix_fallocate itself is believed.
_NOBODY_KNOWS = ""
#: File systems that keep the room that a file was given, whatever becomes of the disk.  One
#: that writes elsewhere than it has allocated, as Btrfs does, or over a network, does not.
_KEEP_ROOM = {"ext2", "ext3", "ext4", "xfs", "tmpfs", _NOBODY_KNOWS}
#: What may have the name of a file and is none.
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    Call = TypeVar("Call", bound=Callable[..., Any])


def _translated(call: Call) -> Call:
    """Make every OSError that leaves ``call`` an ``error``."""

    def translated(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except error:
            raise
        except OSError as problem:
            subject = args[1] if len(args) > 1 else None
            name = problem.filename or getattr(subject, "path", subject)
            raise error(problem.errno, problem.strerror, name) from problem

    translated.__name__ = call.__name__
    translated.__doc__ = call.__doc__
    return translated  # type: ignore[return-value]  # the same signature


class File:
    """An open file: a descriptor and the path it was opened by."""

    __slots__ = ("descriptor", "path")

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path


class FileSystem:
    """The operations a store needs, on real files.

    All raise ``error``.  Paths are str; offsets and lengths are bytes.
    """

    @_translated
    def create(self, path: str, mode: int = 0o666) -> File:
        """Make a new file, open for reading and writing; it must not exist."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        return File(os.open(path, flags, mode), path)

    @_translated
    def open(self, path: str, writable: bool = False) -> File:
        """Open an existing file, and nothing else: of a FIFO even that would wait for ever.

        Raises CorruptionError where there is something else; to look costs 1 µs.
        """
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            meaning = f"expected a file, found {_KINDS.get(stat.S_IFMT(status.st_mode), 'none')}"
            raise CorruptionError(path, 0, meaning)
        flags = (os.O_RDWR if writable else os.O_RDONLY) | getattr(os, "O_CLOEXEC", 0)
        return File(os.open(path, flags), path)

    @_translated
    def close(self, file: File) -> None:
        """Close the descriptor; maps made of it stay."""
        os.close(file.descriptor)

    @_translated
    def size(self, file: File) -> int:
        """Return the file's length."""
        return os.fstat(file.descriptor).st_size

    @_translated
    def mode(self, file: File) -> int:
        """Return the permission bits of a file that is open."""
        return os.fstat(file.descriptor).st_mode & 0o777

    @_translated
    def mode_of(self, path: str) -> int:
        """Return the permission bits of a file or a directory."""
        return os.stat(path).st_mode & 0o777

    @_translated
    def read(self, file: File, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes; fewer only at the end of the file."""
        parts = []
        while length > 0:
            part = os.pread(file.descriptor, length, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    @_translated
    def write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        """Write all of ``data`` at ``offset``."""
        view = memoryview(data)
        while view:
            written = os.pwrite(file.descriptor, view, offset)
            offset += written
            view = view[written:]

    @_translated
    def sync(self, file: File) -> None:
        """Return once the file's data is on the disk, mapped pages included."""
        getattr(os, "fdatasync", os.fsync)(file.descriptor)

    @_translated
    def sync_directory(self, path: str) -> None:
        """Return once creations, renames and removals in ``path`` are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @_translated
    def allocate(self, file: File, length: int) -> None:
        """Make the file at least ``length`` long with room promised on the disk.

        Raises ``error`` with ENOTSUP where nobody keeps such a promise: to store into a
        map kills the process there (SIGBUS) once the disk is full.
        """
        if not hasattr(os, "posix_fallocate"):
            raise error(errno.ENOTSUP, "this system has no posix_fallocate", file.path)
        kind = _kind_of_file_system(file)
        if kind not in _KEEP_ROOM:
            meaning = f"expected a file system that keeps allocated room, found {kind}"
            raise error(errno.ENOTSUP, meaning, file.path)
        try:
            os.posix_fallocate(file.descriptor, 0, length)
        except OSError as problem:
            raise error(problem.errno, problem.strerror, file.path) from problem

    @_translated
    def map(self, file: File, length: int, writable: bool = False) -> mmap.mmap:
        """Map the first ``length`` bytes, shared with every other map of the file."""
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        try:
            return mmap.mmap(file.descriptor, length, access=access)
        except ValueError as problem:  # the file is shorter than ``length``
            meaning = f"cannot map {length} bytes: {problem}"
            raise error(errno.EINVAL, meaning, file.path) from problem

    def words(self, mapped: mmap.mmap, offset: int, count: int) -> memoryview:
        """Return ``count`` u64 of a map from ``offset`` on; a store is one instruction.

        The map cannot be closed before the view is released.
        """
        return memoryview(mapped)[offset : offset + 8 * count].cast("Q")

    @_translated
    def rename(self, source: str, destination: str) -> None:
        """Give ``source`` the name ``destination``, replacing what had it."""
        os.replace(source, destination)

    @_translated
    def link(self, source: str, destination: str) -> None:
        """Give the file ``source`` a second name, which must be free, on the same file system."""
        os.link(os.path.realpath(source), destination)

    @_translated
    def remove(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    @_translated
    def make_directory(self, path: str, mode: int) -> None:
        """Make one directory."""
        os.mkdir(path, mode)

    @_translated
    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        os.rmdir(path)

    @_translated
    def list(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(os.listdir(path))

    def kind(self, path: str) -> str:
        """Return "directory", "file", "other" (a device, a dangling link) or "missing"."""
        if os.path.isdir(path):
            return "directory"
        if os.path.isfile(path):
            return "file"
        return "other" if os.path.lexists(path) else "missing"

    def exists(self, path: str) -> bool:
        """Tell whether something is at ``path``; cheaper than ``kind``."""
        return os.access(path, os.F_OK)

    def real(self, path: str) -> str:
        """Return the path without symbolic links."""
        return os.path.realpath(path)

    def is_mount(self, path: str) -> bool:
        """Tell whether something is mounted at ``path``: nothing else can get its name then."""
        path = os.path.realpath(path)
        written = path.replace("\\", r"\134")
        for character in " \t\n":
            written = written.replace(character, f"\\{ord(character):03o}")
        points = [line.split(" ", 5)[4:5] for line in _mounts() or ()]
        return os.path.ismount(path) or [written] in points

    @_translated
    def inode(self, path: str) -> tuple[int, int]:
        """Return (device, inode): the same by every path to one file."""
        status = os.stat(path)
        return status.st_dev, status.st_ino

    def join(self, directory: str, name: str) -> str:
        """Return the path of ``name`` in ``directory``."""
        return os.path.join(directory, name)

    def parent(self, path: str) -> str:
        """Return the directory that holds ``path``."""
        return os.path.dirname(os.path.abspath(path))

    @_translated
    def lock(self, file: File) -> bool:
        """Take the exclusive flock without waiting; False when another has it."""
        if fcntl is None:  # pragma: no cover - Windows has no flock
            return True
        try:
            fcntl.flock(file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @_translated
    def is_at(self, file: File, path: str) -> bool:
        """Tell whether ``path`` still names this very file."""
        try:
            return os.path.samestat(os.fstat(file.descriptor), os.stat(path))
        except FileNotFoundError:
            return False

    @_translated
    def unlock(self, file: File) -> None:
        """Give the flock back, also on behalf of children that inherited it."""
        if fcntl is not None:  # pragma: no branch - Windows has no flock
            fcntl.flock(file.descriptor, fcntl.LOCK_UN)

    def process(self) -> int:
        """Return the number of this process."""
        return os.getpid()

    def process_space(self) -> int:
        """Return in which space, below 2**32, numbers of processes mean what they do here.

        A container has one of its own.  0 where the system does not tell.
        """
        try:
            return int(os.readlink(_PROCESS_SPACE).partition("[")[2].rstrip("]")) & 0xFFFF_FFFF
        except (OSError, ValueError):
            return 0

    def is_running(self, process: int) -> bool:
        """Tell whether there is a process of this number; True where that is not known."""
        if fcntl is None:  # pragma: no cover - on Windows signal 0 is not harmless
            return True
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
        return True

    def boot(self) -> bytes:
        """Return 16 bytes that are the same until the machine starts anew.

        Where the system does not tell, each call gives other bytes: then
        recovery never takes the page cache's survival for granted.
        """
        try:
            found = bytes.fromhex(_told(_BOOT).decode("ascii").strip().replace("-", ""))
        except (OSError, ValueError):
            found = b""
        return found if len(found) == 16 else os.urandom(16)

    def random(self, length: int) -> bytes:
        """Return random bytes."""
        return os.urandom(length)

    def clock(self) -> float:
        """Return seconds since some moment; they never go back."""
        return monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait; other threads run meanwhile."""
        sleep(seconds)


#: The handles to tell of a fork.  Changed only by calls that are one step, so
#: that a fork finds it whole, and that no finaliser has to take a lock.
_watchers: dict[ref[Any], None] = {}
_forking = RLock()


def _kind_of_file_system(file: File) -> str:
    """Return the type of the file system that a file is on, as Linux names it.

    O(mounts of the system): 0.1 ms for some dozens.
    """
    device = os.fstat(file.descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    kind, lines = "an unknown one", _mounts()
    if lines is None:
        return _NOBODY_KNOWS
    for fields, _, of_type in (line.partition(" - ") for line in lines):
        if fields.split(" ", 3)[2:3] == [number]:
            kind = of_type.partition(" ")[0]
    return kind


def _mounts() -> list[str] | None:
    """Return the lines in which Linux says what is mounted, None where nobody says it."""
    try:
        return os.fsdecode(_told(_MOUNTS)).split("\n")[:-1]
    except OSError:
        return None


def _told(path: str) -> bytes:
    """Return what the system says in a file.

    Not by ``open``, which is gone while the interpreter ends, and a finalizer still writes.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return b"".join(iter(partial(os.read, descriptor, 1 << 16), b""))
    finally:
        os.close(descriptor)


def close_all(things: Iterable[Any]) -> None:
    """Close all of them; what one raises is raised in the end."""
    with ExitStack() as closing:
        for thing in things:
            closing.callback(thing.close)


def after_fork(handle: Any) -> None:
    """Call ``handle.forked()`` in every child process, as long as the handle lives."""
    _watchers[ref(handle, _forget)] = None


def _forget(watcher: ref[Any]) -> None:
    _watchers.pop(watcher, None)


def no_fork() -> RLock:
    """Return a lock that no other thread can fork under; hold it for an instant."""
    return _forking


def _tell_watchers() -> None:
    _forking.release()
    for watcher in list(_watchers):
        handle = watcher()
        # One that another thread was making at the fork is nobody's in the child.
        with suppress(AttributeError):
            if handle is not None:
                handle.forked()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(
        before=_forking.acquire,
        after_in_parent=_forking.release,
        after_in_child=_tell_watchers,
    )


def environment(name: str, default: str) -> str:
    """Return an environment variable, or ``default`` where it is not set or empty."""
    return os.environ.get(name) or default
