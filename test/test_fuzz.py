"""The readers of sites, surveys and bags on files that are damaged at random: each works or refuses in one line, at once, in little memory.

One child process does all of it, so that a crash or a hang of a library is a failure here and not the end of the suite; its
address space is bounded. Run by hand with a site: ``python test/test_fuzz.py SITE FOLDER``.
"""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from bags import drive
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera
from omniad_ros.core.images import write_image
from omniad_ros.recordings import open_frames, read_survey
from omniad_ros.site import Site

LONGEST = 5.0
"""Seconds of a processor that a reader may take."""
MEMORY = 8 << 30
"""Bytes of address space, of which libraries alone reserve half."""
ODD = (
    st.sampled_from((None, True, -1, 0, 1e308, -1e-308, 10**30, 2**63, "", "../../x", "\0", "\x1b[2J", [], {}, [[]]))
    | st.floats()
)
STEPS = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(("down", "down", "down", "drop", "odd", "twice")), ODD),
    min_size=1,
    max_size=9,
)
BYTES = st.tuples(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8), st.floats(0.01, 1)
)
ALMOST_ALL = 0.9
"""Share from which a file is not cut."""


def altered(data, steps):
    """Parsed JSON with one value, where the steps lead to, made odd, taken away or repeated."""
    (choice, what, odd), *further = steps
    if not isinstance(data, dict | list) or not data or (what == "odd" and not further):
        return odd
    keys = sorted(data) if isinstance(data, dict) else range(len(data))
    key, copy = keys[choice % len(keys)], data.copy()
    if what == "drop":
        del copy[key]
    elif what == "twice" and isinstance(copy, list):
        copy.append(copy[key])
    else:
        copy[key] = altered(copy[key], further or [(0, "odd", odd)])
    return copy


def damaged(data: bytes, changes) -> bytes:
    """Bytes with some of them changed, most of these near the beginning, where a file says what it is, and the end cut off."""
    flips, share = changes
    data = bytearray(data)
    for place, mask in flips:
        data[int(place**3 * len(data))] ^= mask
    return bytes(data if share > ALMOST_ALL else data[: int(share * len(data))])


def judge(read):
    """Runs a reader, which returns or refuses."""
    start = time.process_time()
    with contextlib.suppress(OmniadError):
        try:
            read()
        except OmniadError as error:
            assert "\n" not in str(error) and str(error)
            raise
    assert time.process_time() - start < LONGEST


def site_readers(site: Path) -> dict:
    """What reads each file of a site, as far as a frame would."""
    from omniad_ros.detection import Detector
    from omniad_ros.mapping import Localizer
    from omniad_ros.reference import ReferenceRenderer, load_field

    grey, camera = np.full((64, 64, 3), 99, np.uint8), Camera.from_fov(16, 12, 1.0)
    pose = Site.open(site).mapped.poses[0]

    def renderer():
        ReferenceRenderer.of_site(Site.open(site, verify=False)).render(camera, pose)

    def localizer():
        image = Site.open(site, verify=False).mapped.image(0)
        Localizer.load(site / "map").localize(image, Camera.from_fov(image.shape[1], image.shape[0], 1.0), pose)

    return {
        "site.json": lambda: Site.open(site, verify=False).longest_side,
        "survey/transforms.json": lambda: Site.open(site, verify=False).survey,
        "map/transforms.json": localizer, "map/sfm/images.bin": localizer, "map/points.safetensors": localizer,
        "map/features.h5": localizer, "map/global-features.h5": localizer,
        "radiance/field.json": lambda: load_field(site / "radiance").render(camera, pose), "radiance/weights.safetensors": renderer,
        "detector/views.safetensors": renderer, "detector/detector.json": lambda: Detector.load(site / "detector").heatmap(grey),
        "detector/calibration.json": lambda: Detector.load(site / "detector").heatmap(grey),
        "detector/weights.safetensors": lambda: Detector.load(site / "detector").heatmap(grey),
    }  # fmt: skip


def survey_readers(folder: Path) -> dict:
    survey = folder / "survey"
    survey.mkdir()
    frames = []
    for index in range(3):
        write_image(survey / f"{index}.png", np.full((24, 32, 3), index, np.uint8))
        frames.append({"file_path": f"{index}.png", "transform_matrix": np.eye(4).tolist()})
    camera = {
        "w": 32,
        "h": 24,
        "fl_x": 30.0,
        "fl_y": 30.0,
        "cx": 16.0,
        "cy": 12.0,
        "k1": 0.01,
        "camera_model": "OPENCV",
    }
    (survey / "transforms.json").write_text(json.dumps({**camera, "frames": frames}))
    bags = {}
    for storage, suffix in (("mcap", "mcap"), ("sqlite3", "db3")):
        drive(folder / storage, range(4), storage=storage)
        file = folder / storage / f"{storage}.{suffix}"
        bags[str(file.relative_to(folder))] = lambda file=file: list(open_frames(file).open_frames())
    return {
        "survey/transforms.json": lambda: read_survey(survey),
        "survey/1.png": lambda: list(read_survey(survey).open_images()),
        **bags,
    }


def fuzz(root: Path, name: str, read, examples: int) -> None:
    """Give a reader its file, altered and damaged, and the whole one again at the end."""
    file = root / name
    whole = file.read_bytes()
    read()  # what is imported and compiled at the first call does not count
    chosen = settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
    )  # fmt: skip

    @chosen
    @given(STEPS)
    def structure(steps):
        data = altered(json.loads(whole), steps)
        if isinstance(data, dict) and data.get("method", "") == json.loads(whole).get(
            "method", ""
        ):  # others import nerfstudio
            file.write_text(json.dumps(data))
            judge(read)

    @chosen
    @given(BYTES)
    @example(([], 0.5))
    def content(changes):
        file.write_bytes(damaged(whole, changes))
        judge(read)

    try:
        if name.endswith(".json"):
            structure()
        content()
    finally:
        file.write_bytes(whole)


def main(site: Path, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for root, readers in ((site, site_readers(site)), (folder, survey_readers(folder))):
        for name, read in readers.items():
            start = time.process_time()
            print(name, flush=True)
            quick = name.endswith("json") and not name.startswith(("map", "radiance", "detector"))
            fuzz(root, name, read, 150 if quick else 25)
            print(f"  {time.process_time() - start:.1f} s", flush=True)


def test_readers_of_damaged_files_work_or_refuse(tiny_site, tmp_path):
    site = shutil.copytree(tiny_site, tmp_path / "site")
    (tmp_path / "folder").mkdir()
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    ran = subprocess.run(
        [sys.executable, __file__, str(site), str(tmp_path / "folder")], capture_output=True, text=True, timeout=500,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-500:] + ran.stderr[-3000:]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
