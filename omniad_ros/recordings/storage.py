"""The files of a rosbag2, MCAP and SQLite, as raw messages by topic: what is whole is read, whatever lies beside it.

A topic that nobody here understands, a definition that cannot be parsed, a missing index or metadata.yaml, or an end that
was cut off must not make the rest unreadable; what is left out is said once.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import check_regular
from omniad_ros.core.images import natural_key

SUFFIXES = (".mcap", ".db3")
COMPRESSED = ".zstd"
LARGEST_RECORD = 1 << 30
"""Bytes: a record that says it is longer is damaged."""

MOST_PACKED = 200
"""How many times larger than its packed file a recording is at most; pictures are packed to a tenth at best."""
LARGEST_METADATA = 1 << 20
"""Bytes of a metadata.yaml: one of a thousand files has a third."""
BLOCK = 1 << 20

logger = logging.getLogger(__name__)


class _Metadata(msgspec.Struct):
    """Of metadata.yaml, what is believed."""

    relative_file_paths: list[str] | None = None
    compression_mode: str | None = None


@dataclass(frozen=True)
class Topic:
    """type: as ``sensor_msgs/msg/Image``; encoding: of its messages, ``cdr`` for ROS 2's own; count: of messages."""

    name: str
    type: str
    encoding: str
    count: int


@dataclass(frozen=True)
class RawMessage:
    """received: nanoseconds at which it was recorded; data: as it was sent."""

    topic: str
    received: int
    data: bytes


def is_storage(path: Path) -> bool:
    return path.name.endswith((*SUFFIXES, *(suffix + COMPRESSED for suffix in SUFFIXES)))


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def unpacked(data: bytes) -> bytes:
    """What Zstandard packed, also where the size is not in its header. Raises ValueError where it is more than any message."""
    import zstandard

    parts, size = [], 0
    with zstandard.ZstdDecompressor().stream_reader(data) as reader:
        while part := reader.read(BLOCK):
            size += len(part)
            if size > LARGEST_RECORD:
                raise ValueError("it unpacks to more than any message has")
            parts.append(part)
    return b"".join(parts)


class McapFile:
    """One MCAP file, with or without its index and its end; compressed: as of `Sqlite3File`."""

    def __init__(self, path: Path, compressed: bool = False):
        from mcap.reader import SeekingReader

        self.path, self.compressed = path, compressed
        self.stream = path.open("rb")
        try:
            self.summary = None
            with contextlib.suppress(Exception):  # the end is missing or damaged: what is before it may be whole
                self.summary = SeekingReader(self.stream, record_size_limit=LARGEST_RECORD).get_summary()
            self.topics = self._counted() if self.summary and self.summary.statistics else self._scanned()
        except Exception:
            self.stream.close()
            raise

    def close(self) -> None:
        self.stream.close()

    def messages(self, names: Collection[str]) -> Iterator[RawMessage]:
        for _, channel, message in self._read(names):
            try:
                data = unpacked(message.data) if self.compressed else message.data
            except Exception as error:
                logger.warning(
                    "a message of %s cannot be unpacked and is left out (%s)", channel.topic, one_line(error)
                )
                continue
            yield RawMessage(channel.topic, message.log_time, data)

    def _read(self, names: Collection[str] | None):
        from mcap.exceptions import McapError
        from mcap.reader import NonSeekingReader, SeekingReader

        self.stream.seek(0)
        try:
            if self.summary is not None and self.summary.chunk_indexes:
                yield from SeekingReader(self.stream, record_size_limit=LARGEST_RECORD).iter_messages(names)
            else:  # in the order of the file: sorting would bring all of it into memory
                yield from NonSeekingReader(self.stream, record_size_limit=LARGEST_RECORD).iter_messages(
                    names, log_time_order=False
                )
        except (McapError, OSError, ValueError, KeyError, EOFError, MemoryError) as error:
            self._damaged(error)
        except Exception as error:  # lz4 and zstd raise their own
            self._damaged(error)

    def _damaged(self, error: Exception) -> None:
        logger.warning("%s is damaged or was cut off: what comes after is left out (%s)", self.path, one_line(error))

    def _counted(self) -> dict[str, Topic]:
        counts, schemas = self.summary.statistics.channel_message_counts, self.summary.schemas
        found = [
            (channel, schemas.get(channel.schema_id), counts.get(channel.id, 0))
            for channel in self.summary.channels.values()
        ]
        return _merged(Topic(c.topic, _full(s.name if s else ""), c.message_encoding, n) for c, s, n in found)

    def _scanned(self) -> dict[str, Topic]:
        return _merged(
            Topic(c.topic, _full(s.name if s else ""), c.message_encoding, 1) for s, c, _ in self._read(None)
        )


class Sqlite3File:
    """One SQLite file; compressed: each message is packed by Zstandard, as metadata.yaml says."""

    def __init__(self, path: Path, compressed: bool = False):
        self.path, self.compressed = path, compressed
        self.database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        try:
            self._check_tables()
            counts = dict(self.database.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
            rows = self.database.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
        except sqlite3.Error:
            self.database.close()
            raise
        self._ids = {row[0]: row[1] for row in rows}
        self.topics = _merged(
            Topic(name, _full(kind), encoding, counts.get(key, 0)) for key, name, kind, encoding in rows
        )

    def _check_tables(self) -> None:
        """Raise sqlite3.Error where what is read is computed by what the file says: that may have no end."""
        kinds = dict(self.database.execute("SELECT name, type FROM sqlite_master WHERE name IN ('messages', 'topics')"))
        for table in ("messages", "topics"):
            columns = self.database.execute(f"PRAGMA table_xinfo({table})").fetchall()
            if kinds.get(table) != "table" or any(hidden for *_, hidden in columns):
                raise sqlite3.DatabaseError(f"it has no plain table of {table}")

    def close(self) -> None:
        self.database.close()

    def messages(self, names: Collection[str]) -> Iterator[RawMessage]:
        wanted = [key for key, name in self._ids.items() if name in names]
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({','.join('?' * len(wanted))}) ORDER BY timestamp"
        try:
            for key, received, data in self.database.execute(query, wanted):
                yield RawMessage(self._ids[key], received, unpacked(data) if self.compressed else data)
        except Exception as error:
            logger.warning("%s is damaged: what comes after is left out (%s)", self.path, one_line(error))


def _merged(topics) -> dict[str, Topic]:
    merged: dict[str, Topic] = {}
    for topic in topics:
        known = merged.get(topic.name)
        merged[topic.name] = (
            topic if known is None else Topic(known.name, known.type, known.encoding, known.count + topic.count)
        )
    return merged


def _full(kind: str) -> str:
    """``sensor_msgs/Image`` and ``sensor_msgs/msg/Image`` are one type."""
    package, _, name = kind.partition("/")
    return kind if not name or "/" in name else f"{package}/msg/{name}"


class Bag:
    """All files of a recording, open; a context. path: its folder, or one of its files.

    Raises OmniadError where none of them can be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self._stack = contextlib.ExitStack()
        try:
            self.files = self._open()
        except BaseException:
            self._stack.close()
            raise
        self.topics = _merged(topic for file in self.files for topic in file.topics.values())

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def messages(self, names: Collection[str]) -> Iterator[RawMessage]:
        """In the order of recording, over all files."""
        yield from heapq.merge(*(file.messages(names) for file in self.files), key=lambda message: message.received)

    def _open(self) -> list[McapFile | Sqlite3File]:
        paths, compressed = storage_files(self.path)
        found, errors = [], []
        for path in paths:
            try:
                check_regular(path)
                plain = self._decompressed(path) if path.name.endswith(COMPRESSED) else path
                file = McapFile(plain, compressed) if plain.suffix == ".mcap" else Sqlite3File(plain, compressed)
                self._stack.callback(file.close)
                found.append(file)
            except Exception as error:  # its libraries let those of decompressors and databases through
                errors.append(f"{path.name}: {one_line(error)}")
        if not found or (not any(file.topics for file in found) and errors):
            raise OmniadError(f"the bag {self.path} cannot be read: {errors[0]}")
        if not any(file.topics for file in found):
            raise OmniadError(f"the bag {self.path} cannot be read: it is empty or damaged, no message in it is whole")
        if errors:
            logger.warning(
                "%s: %d of its %d files cannot be read and are left out (%s)",
                self.path,
                len(errors),
                len(paths),
                "; ".join(errors),
            )
        return found

    def _decompressed(self, path: Path) -> Path:
        import zstandard

        plain = Path(self._stack.enter_context(tempfile.TemporaryDirectory())) / path.name.removesuffix(COMPRESSED)
        with path.open("rb") as source, plain.open("wb") as target:
            room = MOST_PACKED * path.stat().st_size
            reader = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
            while part := reader.read(BLOCK):
                room -= len(part)
                if room < 0:
                    raise ValueError("it unpacks to more than any recording")
                target.write(part)
        return plain


def storage_files(path: Path) -> tuple[list[Path], bool]:
    """The files of a recording in their order, and whether their messages are compressed one by one.

    metadata.yaml is believed in what it says of compression; files that it does not name are read all the same.
    """
    if path.is_file():
        return [path], False
    try:
        present = sorted((file for file in path.iterdir() if is_storage(file)), key=lambda file: natural_key(file.name))
    except OSError as error:
        raise OmniadError(f"the bag {path} cannot be read: {error.strerror}") from None
    if not present:
        raise OmniadError(f"{path} is no bag: it holds neither a .mcap nor a .db3 file")
    facts = _metadata(path / "metadata.yaml")
    named = [Path(name).name for name in facts.relative_file_paths or ()] if facts else []
    if absent := [name for name in named if not (path / name).is_file()]:
        logger.warning(
            "%s misses %d of the files that its metadata.yaml names: left out (the first is %s)",
            path,
            len(absent),
            absent[0],
        )
    if facts and (further := [file.name for file in present if file.name not in named]):
        logger.warning(
            "%s holds files that its metadata.yaml does not name: read all the same (the first is %s)", path, further[0]
        )
    return present, facts is not None and (facts.compression_mode or "").lower() == "message"


def _metadata(path: Path) -> _Metadata | None:
    import yaml

    if not path.is_file():
        return None
    try:
        if path.stat().st_size > LARGEST_METADATA:
            raise ValueError("it is too large")
        return msgspec.convert(yaml.safe_load(path.read_text())["rosbag2_bagfile_information"], _Metadata)
    except Exception as error:
        logger.warning("%s cannot be read and is not used (%s)", path, one_line(error))
        return None
