"""Room for whole pictures in the shared memory through which Fast DDS hands messages to processes of the same computer."""

from __future__ import annotations

import os
from pathlib import Path

PROFILE = Path(__file__).with_name("fastdds.xml")
FILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Environment variables that name a profile, of newer and of older versions."""


def make_room() -> None:
    """Have the participants that this process is going to make use `PROFILE`, where nobody has chosen transports or a profile."""
    if not any(os.environ.get(name) for name in (*FILES, "FASTDDS_BUILTIN_TRANSPORTS")):
        os.environ.update(dict.fromkeys(FILES, str(PROFILE)))
