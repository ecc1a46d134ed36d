"""Files that are whole or not there: JSON, hashes, locks, and what a disk's errors mean to the user."""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from omniad_ros.core.feedback import NoSpaceError, OmniadError, causes

FULL_DISK = os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "disk is full"
LARGEST_JSON = 256 << 20
"""Bytes: a survey of 100,000 frames takes some 50 MB; what is larger is something else, and would fill the memory."""


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write beside, then rename: the file is either the old one or the whole new one."""
    data = data.encode() if isinstance(data, str) else data
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def write_json(path: Path, data) -> None:
    write_atomically(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path, type: Any = None) -> Any:
    """What a JSON file holds, as ``type``: a msgspec type, such as a Struct or a dataclass.

    Kinds are not converted and numbers are finite. Without a type the file is a foreign one of unknown shape; dicts and
    lists come back. Raises OmniadError where the file is missing, is not JSON, or is not of the type; it names the field.
    """
    try:
        size = check_regular(path).st_size
        if size > LARGEST_JSON:
            raise OmniadError(f"{path} is too large to be read: {size >> 20} MB of JSON, at most {LARGEST_JSON >> 20}")
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)  # other tools may begin with a byte order mark
    except FileNotFoundError:
        raise OmniadError(f"{path} is missing") from None
    except OSError as error:
        raise OmniadError(f"{path} cannot be read: {error.strerror}") from None
    return decode_json(data, str(path), type)


def decode_json(data: bytes | str, name: str, type: Any = None) -> Any:
    """As `read_json`, of JSON that lies in memory; ``name`` stands for it in the error."""
    try:
        return json.loads(data) if type is None else msgspec.json.decode(data, type=type)
    except msgspec.ValidationError as error:
        raise OmniadError(f"{name} is not as it should be: {_sentence(error)}") from None
    except (ValueError, RecursionError) as error:
        raise OmniadError(f"{name} cannot be read as JSON: {error}") from None


def as_type(data: Any, name: str, type: Any) -> Any:
    """What was read without a type (`read_json`) as ``type``, as `decode_json`; numbers need not be finite."""
    try:
        return msgspec.convert(data, type)
    except msgspec.ValidationError as error:
        raise OmniadError(f"{name} is not as it should be: {_sentence(error)}") from None


def _sentence(error: msgspec.ValidationError) -> str:
    """msgspec's "Expected `float`, got `str` - at `$.frames[1].w`" as "frames[1].w: expected float, got str"."""
    what, _, where = str(error).replace("`", "").partition(" - at ")
    what = what[:1].lower() + what[1:]
    return f"{where.removeprefix('$').removeprefix('.')}: {what}" if where else what


def check_regular(path: Path) -> os.stat_result:
    """The status of a file that may be opened: a named pipe or a device would hang whoever reads it, or have no end.

    Links are followed. Raises OmniadError for any other kind of file, and for a name that is no text, with which OpenCV crashes;
    OSError where there is none.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise OmniadError(f"{path} has a name that is not UTF-8; rename it") from None
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OmniadError(f"{path} cannot be read: it is {kind_of_file(status.st_mode)}, not a regular file")
    return status


def kind_of_file(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link",
        stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "of an unknown kind")


def regular_files(folder: Path) -> Iterator[Path]:
    """All files below a folder of data from elsewhere, looked at by lstat before any is opened.

    Raises OmniadError for what is neither a folder nor a regular file, and for a link that leads out of the folder.
    """
    root = folder.resolve()
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = Path(entry.path)
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    if not path.resolve().is_relative_to(root):
                        raise OmniadError(f"{path} is a link that leads out of {folder}; nothing outside it is read")
                    if not path.is_file():
                        raise OmniadError(f"{path} is a link, and not to a regular file")
                    yield path
                elif stat.S_ISDIR(mode):
                    waiting.append(path)
                elif stat.S_ISREG(mode):
                    yield path
                else:
                    raise OmniadError(f"{path} cannot be read: it is {kind_of_file(mode)}, not a regular file")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256_blocks(file)
        )


def hashes(folder: Path, name: str) -> dict[str, str]:
    """SHA-256 of all files below a folder, by their names as the folder is to be called."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {f"{name}/{file.relative_to(folder).as_posix()}": sha256(file) for file in files}


def _sha256_blocks(file) -> str:  # Python 3.10 has no file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def check_empty(folder: Path) -> None:
    """Raise OmniadError where an output folder holds something, or cannot be one."""
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise OmniadError(f"{folder} is not empty; choose an empty output folder")
        place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    except OSError as error:
        raise OmniadError(f"{folder} cannot be used: {error.strerror}") from error
    if not place.is_dir():
        raise OmniadError(f"{place} is a file; choose a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OmniadError(f"{place} cannot be written to; choose another folder")


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from working on the same folder. Raises OmniadError where one does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise OmniadError(
            f"another process is working on {folder}; wait until it is done, or choose another folder"
        ) from None
    except OSError:
        pass  # a network disk that knows no locks
    try:
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except NoSpaceError:
        raise
    except Exception as error:
        if is_full_disk(error):
            raise NoSpaceError(
                f"no space left on the disk of {path}; free some and run the same command again"
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise OmniadError(f"cannot write to {path}: {error.strerror}") from error
        raise


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is a full disk; safetensors, HDF5 and SQLite say so in words of their own."""
    return any(
        isinstance(cause, NoSpaceError)
        or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or (not isinstance(cause, OmniadError) and any(words in str(cause) for words in FULL_DISK))
        for cause in causes(error)
    )
