"""A site on a machine without pycolmap and nerfstudio: its map is read, frames are localized as well, and what needs them says so."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Pose
from omniad_ros.mapping.model import read_model

ROBOT_LACKS = (
    "pycolmap",
    "nerfstudio",
    "mujoco",
    "torchmetrics",
    "xatlas",
    "liblzfse",
    "viser",
    "gsplat",
    "nerfacc",
    "open3d",
)
LACKING = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ROBOT_LACKS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])
sys.meta_path.insert(0, Absent())
"""
LOCALIZED = """
import json
from pathlib import Path
from omniad_ros.core.geometry import Pose
from omniad_ros.core.images import read_image
from omniad_ros.mapping import Localizer
from omniad_ros.mapping.backend import backend
from omniad_ros.site import Site
site, dataset = Path(sys.argv[1]), Path(sys.argv[2])
localizer, camera, found = Localizer.load(site / "map"), Site.open(site).mapped.camera, []
for frame in json.loads((dataset / "test_poses.json").read_text())["frames"]:
    truth = Pose.from_opengl(frame["transform_matrix"])
    for prior in (None, truth):
        where = localizer.localize(read_image(dataset / frame["file_path"]), camera, prior)
        found.append([where.verdict, *([] if where.pose is None else where.pose.distance(truth)), where.inliers])
print(json.dumps([backend.__name__, found]))
"""


def python(code: str, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=500
    )


def command(*words) -> subprocess.CompletedProcess:
    """`omniad` where a robot's machine lacks libraries."""
    return python(f"{LACKING}\nfrom omniad_ros.cli import main\nsys.exit(main(sys.argv[1:]))", *words)


def test_frames_are_localized_as_well_without_pycolmap(tiny_site, tiny_dataset):
    said = {}
    for code in (LOCALIZED, LACKING + LOCALIZED):
        done = python(f"import sys\n{code}", tiny_site, tiny_dataset)
        assert done.returncode == 0, done.stderr
        name, found = json.loads(done.stdout.splitlines()[-1])
        said[name.split(".")[-1]] = found
    errors = {}
    for name, found in said.items():
        assert {verdict for verdict, *_ in found} == {"relocalized", "tracked"}, name  # and none is lost
        errors[name] = np.array([[metres, degrees] for _, metres, degrees, _ in found])
        assert errors[name][:, 0].max() < 0.02 and errors[name][:, 1].max() < 0.5
    by_pycolmap, by_opencv = (np.median(errors[name], axis=0) for name in ("by_pycolmap", "by_opencv"))
    assert (by_opencv < 1.5 * by_pycolmap + [0.0005, 0.02]).all(), (by_pycolmap, by_opencv)


def test_a_map_is_read_as_pycolmap_reads_it(tiny_site):
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(tiny_site / "map" / "sfm")
    images = read_model(tiny_site / "map" / "sfm")
    assert len(images) == model.num_reg_images()
    for number, image in zip(sorted(model.reg_image_ids()), images):
        theirs = model.images[number]
        seen = theirs.get_observation_points2D()
        pose = Pose.from_matrix(theirs.cam_from_world().matrix()).inverse()
        assert image.name == theirs.name and (image.pose.matrix() == pose.matrix()).all()
        assert image.keypoint.tolist() == list(theirs.get_observation_point2D_idxs())
        assert image.point.tolist() == [point.point3D_id for point in seen]
        assert (image.pixel == np.array([point.xy for point in seen], np.float32)).all()


def test_a_damaged_model_is_refused_in_a_sentence(tiny_site, tmp_path):
    whole = (tiny_site / "map" / "sfm" / "images.bin").read_bytes()
    file = tmp_path / "sfm" / "images.bin"
    file.parent.mkdir()
    random = np.random.default_rng(0)
    cut = [whole[:size] for size in (0, 7, 8, 60, *random.integers(0, len(whole), 20))]
    for broken in [*cut, b"\xff" * 8 + whole[8:], whole + b"\0", bytes(8), whole[:8] + b"\xff" * (len(whole) - 8)]:
        file.write_bytes(broken)
        with pytest.raises(OmniadError, match="build the site again"):
            read_model(file.parent)
    file.unlink()
    with pytest.raises(OmniadError, match="build the site again"):
        read_model(file.parent)


def test_a_robot_inspects_with_less_and_says_what_it_cannot(tiny_site, tiny_dataset, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number, file in enumerate(sorted((tiny_dataset / "test").rglob("*.png"))[:4]):
        shutil.copy(file, images / f"{number}.png")
    done = command("inspect", tiny_site, images, "--out", tmp_path / "report", "--independent")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert list((tmp_path / "report").rglob("*.html")), done.stdout
    done = command("build", tiny_dataset, "--out", tmp_path / "site")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "maps are built by pycolmap, which is not installed here" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "site" / "site.json").exists()
    done = command("doctor")
    assert done.returncode == 0, done.stderr
