"""Files that are whole or not there: JSON, hashes, locks, and what a disk's errors mean to the user."""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from omniad_ros.core.feedback import OmniadError

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
        size = path.stat().st_size
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


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256_blocks(file)
        )


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
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OmniadError(
                f"no space left on the disk of {path}; free some and run the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise OmniadError(f"cannot write to {path}: {error.strerror}") from error
        raise
