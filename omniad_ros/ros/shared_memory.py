"""Room for whole pictures in the shared memory through which Fast DDS hands messages to processes of the same computer."""

from __future__ import annotations

import os
from pathlib import Path

PROFILE = Path(__file__).with_name("fastdds.xml")
FILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Environment variables that name a profile, of Fast DDS 3 and of 2; version 3 warns of the older one."""
OF_FAST_DDS_2 = ("humble", "iron", "jazzy")
"""Values of ROS_DISTRO."""


def make_room() -> None:
    """Have the participants that this process is going to make use `PROFILE`, where nobody has chosen transports or a profile."""
    if not any(os.environ.get(name) for name in (*FILES, "FASTDDS_BUILTIN_TRANSPORTS")):
        os.environ[FILES[os.environ.get("ROS_DISTRO") in OF_FAST_DDS_2]] = str(PROFILE)
