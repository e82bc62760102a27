"""Writing files so that neither a reader nor a resumed run sees a partial file."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from asrkit.errors import UserError

_TEMPORARY = ".tmp-"
_LOCK = ".lock"
_LONGEST_NAME = 255


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary name next to ``path`` and renames it to ``path`` at the end of the block.

    The temporary name keeps the suffixes of ``path``, as writers choose their format by them.

    Raises:
        UserError: the file system refused (disk full, no permission); an earlier ``path`` is unchanged.
    """
    path = Path(path)
    suffixes = "".join(path.suffixes[-2:])[-24:]
    temporary = path.with_name(f"{_TEMPORARY}{_machine()}-{os.getpid()}-{name_hash(path.name)}{suffixes}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            default_mode = os.fstat(file.fileno()).st_mode & 0o777
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, default_mode)  # only the owner can read safetensors' files
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write {path}: {reason}; free some space or choose another folder, then run again"
        ) from error
    finally:
        with suppress(OSError):  # the folder may not be one; the reason has been given
            temporary.unlink(missing_ok=True)


def _machine() -> str:
    return name_hash(socket.gethostname())


def name_hash(name: str) -> str:
    """Eight characters that tell names apart."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:8]


def companion(path: Path, suffix: str) -> Path:
    """A file that accompanies another: its name with a suffix, or a hash of it if that is too long."""
    name = f"{path.name}{suffix}"
    return path.with_name(name if len(os.fsencode(name)) <= _LONGEST_NAME else f"{name_hash(path.name)}{suffix}")


_ORPHANS_S = 30.0
"""Time for the children of an ended process, such as data loaders, to end and release its lock."""


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def exclusive(folder: Path, name: str = _LOCK) -> Iterator[None]:
    """While entered, no other process on this machine works in a folder, which is created if missing.

    Partial files of killed processes are removed.

    Args:
        folder: the folder.
        name: of the lock file. Processes with different names run in parallel.

    Raises:
        UserError: another process is working there, or the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / name, "a+", encoding="utf-8")  # noqa: SIM115  # held open as long as the lock
    except OSError as error:
        raise UserError(f"cannot work in the folder {folder}: {error.strerror}; choose another one") from error
    with file:
        deadline = time.monotonic() + _ORPHANS_S
        while not _try_lock(file):
            file.seek(0)
            pid = file.read(20).strip() or "unknown"
            alive = not pid.isdigit() or Path("/proc", pid).exists() or not Path("/proc").exists()
            if alive or time.monotonic() > deadline:
                raise UserError(f"process {pid} is working in {folder}; wait for it, stop it, or choose another folder")
            time.sleep(0.2)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        _remove_leftovers(folder)
        yield


def _remove_leftovers(folder: Path) -> None:
    """Removes temporary files of ended processes on this machine."""
    prefix = f"{_TEMPORARY}{_machine()}-"
    for path in list(folder.rglob(f"{prefix}*")):
        pid = path.name.removeprefix(prefix).split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with suppress(OSError):
                path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While entered, no other process on this machine is in a block with the same folder, which is created if missing.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / _LOCK, "w", encoding="utf-8")  # noqa: SIM115  # held open as long as the lock
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(f"cannot work in the folder {folder}: {error.strerror}") from error
    with file:
        yield


def utf8_lines(path: Path) -> list[str]:
    """Lines of :func:`utf8_text`."""
    return utf8_text(path).split("\n")


def utf8_text(path: Path) -> str:
    """A small UTF-8 text file, with or without a byte order mark.

    Raises:
        UserError: the file is not UTF-8, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
        raise UserError(f"{path} is {kind} text: {error.reason} at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` to ``path`` as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
