"""The shared memory through which Fast DDS hands messages to processes of the same computer: room for whole pictures in it, and an end
for that of processes which could not see to it themselves.

A participant has segments and ports there, files beside each of which lies a lock that it holds as long as it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

PROFILE = Path(__file__).with_name("fastdds.xml")
FILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Environment variables that name a profile, of Fast DDS 3 and of 2; version 3 warns of the older one."""
OF_FAST_DDS_2 = ("humble", "iron", "jazzy")
"""Values of ROS_DISTRO."""
MEMORY, LOCK = Path("/dev/shm"), "_el"
NAMES = ("fastdds_", "fastrtps_")
"""With which the files of Fast DDS 3 and 2 begin."""


def make_room() -> None:
    """Have the participants that this process is going to make use `PROFILE`, where nobody has chosen transports or a profile."""
    if not any(os.environ.get(name) for name in (*FILES, "FASTDDS_BUILTIN_TRANSPORTS")):
        os.environ[FILES[os.environ.get("ROS_DISTRO") in OF_FAST_DDS_2]] = str(PROFILE)


def owned(pid: int) -> set[str]:
    """Names of the segments and ports that a running process has opened; none where that cannot be told."""
    names = set()
    with contextlib.suppress(OSError):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                path = Path(os.readlink(handle))
                if path.parent == MEMORY and path.name.startswith(NAMES) and path.name.endswith(LOCK):
                    names.add(path.name.removesuffix(LOCK))
    return names


def remove(names: Iterable[str]) -> None:
    """Remove segments and ports, with their locks, of a process that ends now."""
    for name in names:
        for file in (name, f"sem.{name}_mutex", name + LOCK):
            with contextlib.suppress(OSError):
                (MEMORY / file).unlink()


def remove_left(names: Iterable[str]) -> None:
    """Remove those of a process that has ended, except where another one has taken the name since: then its lock is held."""
    for name in names:
        lock = MEMORY / (name + LOCK)
        if not lock.exists():  # a port that a process which still lives has opened anew, to write to the one that ended
            remove([name])
            continue
        with contextlib.suppress(OSError), lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove([name])
