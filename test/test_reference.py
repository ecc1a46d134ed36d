"""Fields and reference views of a small scene whose photographs are computed exactly: a textured ball in a textured box."""

import json
import shutil

import numpy as np
import pytest
import torch

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import write_image
from omniad_ros.reference import ReferenceRenderer, import_field, load_field, novel_poses, train_field
from omniad_ros.reference.coverage import seen
from omniad_ros.reference.grid import Grid
from omniad_ros.reference.visibility import VISIBILITY, DepthViews, count_views
from omniad_ros.site import PosedImages, SparsePoints

CAMERA = Camera.from_fov(96, 72, np.radians(60))
OPTIONS = ("--max-num-iterations", "1500", "--pipeline.datamanager.train-num-rays-per-batch", "2048")
NERFACTO = (
    "--max-num-iterations", "20", "--pipeline.datamanager.train-num-rays-per-batch", "256",
    "--pipeline.model.log2-hashmap-size", "13", "--pipeline.model.num-levels", "8", "--pipeline.model.max-res", "256",
    "--pipeline.model.hidden-dim", "32", "--pipeline.model.hidden-dim-color", "32", "--pipeline.model.implementation=torch",
    "--pipeline.model.num-proposal-samples-per-ray", "[32, 16]", "--pipeline.model.num-nerf-samples-per-ray", "12",
    "--pipeline.model.use-same-proposal-network", "True", "--pipeline.model.proposal-net-args-list",
    '[{"hidden_dim": 16, "log2_hashmap_size": 12, "num_levels": 4, "max_res": 64, "use_linear": false}]',
)  # fmt: skip
NO_POINTS = SparsePoints(
    np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), *[np.zeros(0, np.int32)] * 2, np.zeros((0, 2), np.float32)
)


def texture(points):
    wave = np.sin(points @ np.array([[9.0, 2, 4], [-3, 8, 5], [4, -5, 9]]).T)
    return np.clip(0.5 + 0.3 * wave, 0, 1)


def intersect(origin, directions):
    """Distance to the ball of radius 0.4 at the origin, or to the walls of the box of half-size 2."""
    b, c = directions @ origin, origin @ origin - 0.4**2
    root = b**2 - c
    ball = np.where(root > 0, -b - np.sqrt(np.maximum(root, 0)), np.inf)
    with np.errstate(divide="ignore"):
        wall = ((np.sign(directions) * 2 - origin) / directions).min(1)
    return np.minimum(np.where(ball > 0, ball, np.inf), wall)


def photograph(pose):
    local = CAMERA.directions().reshape(-1, 3)
    length = np.linalg.norm(local, axis=1)
    directions = local / length[:, None] @ pose.rotation.T
    distance = intersect(pose.translation, directions)
    image = texture(pose.translation + distance[:, None] * directions)
    return (255 * image).astype(np.uint8).reshape(72, 96, 3), (distance / length).reshape(72, 96)


def pose_at(angle, height=0.5, distance=1.4):
    return Pose.look_at((distance * np.cos(angle), distance * np.sin(angle), height), (0, 0, 0))


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    root = tmp_path_factory.mktemp("survey")
    poses = [pose_at(a, h) for h in (0.2, 0.8) for a in np.linspace(0, 2 * np.pi, 16, endpoint=False)]
    names = tuple(f"{i:03d}.png" for i in range(len(poses)))
    for name, pose in zip(names, poses, strict=True):
        write_image(root / name, photograph(pose)[0])
    return PosedImages(CAMERA, root, names, tuple(poses))


@pytest.fixture(scope="module")
def points(survey):
    """Exact points on a grid of pixels, each observed by the photograph it comes from."""
    xyz, image, pixel = [], [], []
    for index, pose in enumerate(survey.poses):
        depth = photograph(pose)[1]
        for v in range(4, 72, 12):
            for u in range(4, 96, 12):
                xyz.append(pose.apply(CAMERA.directions()[v, u] * depth[v, u]))
                image.append(index)
                pixel.append((u + 0.5, v + 0.5))
    xyz = np.array(xyz, np.float32)
    rgb = (255 * texture(xyz)).astype(np.uint8)
    return SparsePoints(
        xyz, rgb, np.array(image, np.int32), np.arange(len(xyz), dtype=np.int32), np.array(pixel, np.float32)
    )


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def one_thread():
    """On several, sums differ by their order, and so does the field."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


def train_interrupted(survey, points, out, options, checkpoint_seconds):
    """Train, interrupted at 60 % and gone on from the checkpoint."""
    from omniad_ros.reference import trainer

    seen = []

    def interrupt(fraction, message):
        if fraction > 0.6:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "CHECKPOINT_SECONDS", checkpoint_seconds)
        with pytest.raises(Interrupted):
            train_field(survey, points, range(len(survey)), out, options=options, progress=interrupt)
        info = train_field(
            survey, points, range(len(survey)), out, options=options, progress=lambda f, m: seen.append((f, m))
        )
    return info, seen


@pytest.fixture(scope="module")
def trained(survey, points, one_thread, tmp_path_factory):
    """A field whose training was interrupted at 60 % and went on from its checkpoint."""
    out = tmp_path_factory.mktemp("radiance")
    return out, *train_interrupted(survey, points, out, OPTIONS, checkpoint_seconds=1.0)


def psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(float) - b) ** 2) / 255**2)


def test_unseen_view(trained):
    out, info, _ = trained
    field = load_field(out)
    values = []
    for angle, height in ((0.3, 0.5), (1.3, 0.4), (4.0, 0.6)):
        truth, depth = photograph(pose_at(angle, height))
        rendering = field.render(CAMERA, pose_at(angle, height))
        assert rendering.image.dtype == np.uint8 and rendering.depth.dtype == np.float32
        covered = np.isfinite(rendering.depth)
        wrong = np.abs(rendering.depth - depth)[covered] > 0.1 * depth[covered]
        values.append((psnr(rendering.image, truth), covered.mean(), wrong.mean()))
    quality, coverage, wrong = np.mean(values, axis=0)
    print(f"{quality:.1f} dB, coverage {coverage:.2f}, wrong depth {wrong:.4f}")
    assert quality > 22.5 and coverage > 0.65 and wrong < 0.02
    assert info["method"] == "grid-field" and info["steps"] == int(OPTIONS[1])


def test_an_interrupted_training_goes_on(trained):
    fractions = [fraction for fraction, _ in trained[2]]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    training = [(f, m) for f, m in trained[2] if "step" in m]
    assert training[0][0] > 0.2, "it began anew"
    assert "left" in training[-1][1]


def test_an_interruption_changes_nothing(survey, points, one_thread, tmp_path):
    """Whatever step the checkpoint was written at: the same field as in one go, but for rounding (75 dB; without moments 44 dB)."""
    options = (*OPTIONS, "--max-num-iterations", "120")
    train_interrupted(survey, points, tmp_path / "twice", options, checkpoint_seconds=0.2)
    train_field(survey, points, range(len(survey)), tmp_path / "once", options=options)
    once, twice = (
        load_field(tmp_path / name).render(CAMERA, pose_at(0.3)).image.astype(float) for name in ("once", "twice")
    )
    assert np.mean((once - twice) ** 2) < 255**2 * 1e-6  # 60 dB


def test_not_covered_where_the_survey_saw_nothing(trained):
    """The ceiling above every photograph."""
    field = load_field(trained[0])
    up = field.render(CAMERA, Pose.look_at((0.5, 0, 1.4), (0.5, 0, 3), up=(1, 0, 0)))
    assert up.image.shape == (72, 96, 3)
    assert np.isfinite(up.depth).mean() < 0.1


def test_the_back_of_a_surface_is_not_covered(trained):
    """From inside the ball: what was only seen from outside says nothing about its inside."""
    inside = load_field(trained[0]).render(CAMERA, Pose.look_at((0, 0, 0), (1, 0.2, 0)))
    assert np.isfinite(inside.depth).mean() < 0.1


def test_covered_is_what_some_views_saw_from_about_here_however_many_saw_it_from_elsewhere():
    """A piece of the ground: 20 views from above, 3 from low on one side."""
    poses = [Pose.look_at((0.3 * np.cos(a), 0.3 * np.sin(a), 2), (0, 0, 0)) for a in np.linspace(0, 6, 20)]
    poses += [Pose.look_at((2, 0.1 * i, 0.5), (0, 0, 0)) for i in range(3)]
    heights = [p.translation[2] / np.maximum(-(CAMERA.directions() @ p.rotation[2]), 1e-3) for p in poses]
    views = DepthViews.of(poses, CAMERA, np.array(heights))
    count, past, along = count_views(np.zeros((1, 3)), views, VISIBILITY.nerfstudio)
    assert count == 23 and past == 0
    grid = Grid((0, 0, 0), (1, 1, 1), 0.5, 1.0, np.ones((1, 1, 1), np.int32))
    grid.views[1], grid.along[1] = count, along
    directions = -np.array([[0, 0, 1], [0.97, 0, 0.24], [-0.97, 0, 0.24], [0, 0, -1]], np.float32)
    assert seen(grid, np.full(4, 64), directions).tolist() == [True, True, False, False]


def test_a_camera_that_stands_still_is_rendered_once(trained):
    field = load_field(trained[0])
    rendered = []

    class Counting:
        def render(self, camera, pose):
            rendered.append(pose)
            return field.render(camera, pose)

    still = ReferenceRenderer(Counting(), None)
    first = still.render(CAMERA, pose_at(0.3))
    assert still.render(CAMERA, pose_at(0.3 + 1e-4)) is first and len(rendered) == 1
    assert still.render(CAMERA, pose_at(0.31)) is not first
    assert still.render(CAMERA.resized(48, 36), pose_at(0.31)).image.shape == (36, 48, 3)
    assert len(rendered) == 3
    assert first.support is None and first.false_alarm is None, "no photograph bears it out"


def test_files_are_plain_data(trained):
    names = sorted(path.name for path in trained[0].rglob("*"))
    assert names == ["field.json", "weights.safetensors"]


@pytest.mark.xfail(
    strict=True, reason="without triangulated points the field stays far below 20 dB; a site always has them"
)
def test_without_points(survey, tmp_path):
    train = [i for i in range(len(survey)) if i % 8]
    train_field(survey, NO_POINTS, train, tmp_path, options=(*OPTIONS, "--max-num-iterations", "200"))
    field = load_field(tmp_path)
    assert psnr(field.render(CAMERA, survey.poses[8]).image, survey.image(8)) > 20


@pytest.fixture(scope="module")
def nerfacto(survey, tmp_path_factory):
    out = tmp_path_factory.mktemp("nerfacto")
    info = train_field(survey, NO_POINTS, range(len(survey)), out, "nerfacto", NERFACTO)
    return out, info


def test_any_nerfstudio_method(nerfacto, survey):
    """nerfacto, tiny: trained, kept as safetensors, loaded, rendered with depth and coverage."""
    out, info = nerfacto
    assert info["method"] == "nerfacto" and info["steps"] == 20
    assert sorted(path.name for path in out.rglob("*")) == ["field.json", "weights.safetensors"]
    rendering = load_field(out).render(CAMERA, survey.poses[3])
    grey = np.full_like(rendering.image, survey.image(3).mean())
    assert psnr(rendering.image, survey.image(3)) > psnr(grey, survey.image(3)) - 1
    assert rendering.depth.shape == (72, 96) and np.nanmax(rendering.depth, initial=0) < 1000


def test_a_finished_nerfstudio_run_is_imported(survey, tmp_path):
    """A run of nerfstudio's own trainer, in its own turned and scaled coordinates, renders the same from the site."""
    import copy

    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager

    from omniad_ros.reference.configuration import method_config
    from omniad_ros.reference.trainer import silent_nerfstudio
    from omniad_ros.site import write_transforms

    data = tmp_path / "data"
    data.mkdir()
    write_transforms(data / "transforms.json", survey)
    with silent_nerfstudio():
        config = copy.deepcopy(method_config("nerfacto", NERFACTO))
        config.vis, config.data, config.pipeline.datamanager.data = "none", data, data
        config.pipeline.datamanager._target = VanillaDataManager
        config.output_dir, config.timestamp, config.machine.device_type = tmp_path / "runs", "run", "cpu"
        config.viewer.quit_on_train_completion = True
        trainer = config.setup()
        trainer.setup()
        trainer.train()
        config.save_config()
        model = trainer.pipeline.model.eval()
        camera = trainer.pipeline.datamanager.train_dataset.cameras[5:6]
        theirs = model.get_outputs_for_camera(camera)["rgb"].numpy()
        name = trainer.pipeline.datamanager.train_dataparser_outputs.image_filenames[5].name
    out = tmp_path / "site"
    out.mkdir()
    info = import_field(survey, config.get_base_dir(), out)
    assert info["method"] == "nerfacto" and 0 < len(info["heldout"]) < 8
    ours = load_field(out).render(CAMERA, survey.poses[survey.names.index(name)])
    assert np.abs(ours.image - 255.0 * theirs).mean() < 1.5
    with pytest.raises(OmniadError, match="photographs of the same name"):
        renamed = tuple(f"x{name}" for name in survey.names)
        import_field(PosedImages(CAMERA, survey.root, renamed, survey.poses), config.get_base_dir(), out)
    with pytest.raises(OmniadError, match="no finished nerfstudio run"):
        import_field(survey, data, out)


def test_bad_input(survey, points, trained, tmp_path):
    with pytest.raises(OmniadError, match="at least three"):
        train_field(survey, points, [0, 1], tmp_path)
    with pytest.raises(OmniadError, match="no option"):
        train_field(survey, points, range(9), tmp_path, options=("--no-such-thing", "1"))
    with pytest.raises(OmniadError, match=r"--max-num-iterations.*many"):
        train_field(survey, points, range(9), tmp_path, options=("--max-num-iterations", "many"))
    with pytest.raises(OmniadError, match="no method 'unheard-of'"):
        train_field(survey, points, range(9), tmp_path, "unheard-of")
    if not torch.cuda.is_available():
        with pytest.raises(OmniadError, match="needs a CUDA GPU"):
            train_field(survey, points, range(9), tmp_path, "splatfacto")
    with pytest.raises(OmniadError, match="missing"):
        load_field(tmp_path / "nothing")
    broken = tmp_path / "broken"
    shutil.copytree(trained[0], broken)
    (broken / "weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(OmniadError, match="build the site again"):
        load_field(broken)
    shutil.copy(trained[0] / "weights.safetensors", broken)
    (broken / "field.json").write_text(json.dumps(json.loads((broken / "field.json").read_text()) | {"version": 0}))
    with pytest.raises(OmniadError, match="another version"):
        load_field(broken)
    (broken / "field.json").write_text(json.dumps({"method": "unheard-of"}))
    with pytest.raises(OmniadError, match="unheard-of"):
        load_field(broken)


def test_novel_poses_lie_between_and_around(survey):
    poses = novel_poses(survey, 50, seed=3)
    positions = np.array([pose.translation for pose in survey.poses])
    gaps = [np.linalg.norm(positions - pose.translation, axis=1).min() for pose in poses]
    assert len(poses) == 50 and max(gaps) < 0.8 and max(gaps) > 0
    again = novel_poses(survey, 50, seed=3)
    assert all(np.array_equal(a.matrix(), b.matrix()) for a, b in zip(poses, again, strict=True))
