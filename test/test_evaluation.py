"""Metrics against brute force, layouts as users have them, patrol scores, and `evaluate_dataset` around a stand-in inspector."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import precision_recall_curve, roc_auc_score

from omniad_ros import evaluation
from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import write_json
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import read_image, write_image
from omniad_ros.detection.options import OURS
from omniad_ros.evaluation import (
    Alignment,
    PatrolTruth,
    PixelMeter,
    PlantedAnomaly,
    RecordedFrame,
    TrueFrame,
    align_truth,
    evaluate_dataset,
    evaluate_datasets,
    image_auroc,
    image_score,
    read_dataset,
    score_patrol,
)
from omniad_ros.evaluation.layouts import read_mask
from omniad_ros.evaluation.metrics import ThingMeter
from omniad_ros.mapping import Localization
from omniad_ros.patrol.pipeline import Inspection
from omniad_ros.patrol.tracks import Tracker
from omniad_ros.reference import ReferenceView
from omniad_ros.site import PosedImages, Site, SparsePoints, write_transforms


def frames(seed, count=5, shape=(40, 60)):
    """Heatmaps that crowd at both ends of [0, 1], as calibrated ones do, with their masks."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        mask = np.zeros(shape, bool)
        for _ in range(0 if index == 0 else 3):
            y, x = rng.integers(0, 30), rng.integers(0, 50)
            mask[y : y + rng.integers(2, 9), x : x + rng.integers(2, 9)] = True
        logit = rng.normal(-8, 3, shape) + 9 * mask
        yield (1 / (1 + np.exp(-logit))).astype(np.float32), mask


def brute_aupro(pairs):
    labels = [ndimage.label(mask, np.ones((3, 3)))[0] for _, mask in pairs]
    normal = np.concatenate([h[~m] for h, m in pairs])
    thresholds = np.quantile(normal, np.linspace(1, 0.6, 400))
    curve = [(0.0, 0.0)]
    for t in thresholds:
        overlaps = [(h[lab == i] >= t).mean() for (h, _), lab in zip(pairs, labels) for i in range(1, lab.max() + 1)]
        curve.append(((normal >= t).mean(), np.mean(overlaps)))
    rate, overlap = np.array(curve).T
    grid = np.linspace(0, 0.3, 2000)
    return np.trapz(np.interp(grid, rate, overlap), grid) / 0.3


@pytest.mark.parametrize("seed", range(3))
def test_pixel_metrics_agree_with_brute_force(seed):
    pairs = list(frames(seed))
    meter = PixelMeter(0.2)
    for heatmap, mask in pairs:
        meter.add(heatmap, mask)
    result = meter.result()
    scores, truth = np.concatenate([h.ravel() for h, _ in pairs]), np.concatenate([m.ravel() for _, m in pairs])
    precision, recall, _ = precision_recall_curve(truth, scores)
    assert result["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
    assert result["max_f1"] == pytest.approx(
        (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max(), abs=1e-3
    )
    assert result["aupro"] == pytest.approx(brute_aupro(pairs), abs=5e-3)
    said = scores >= 0.2
    assert result["precision"] == pytest.approx(truth[said].mean())
    assert result["recall"] == pytest.approx(said[truth].mean())


def test_metrics_at_the_edges():
    meter = PixelMeter(0.5)
    assert set(meter.result().values()) == {None}
    mask = np.zeros((10, 10), bool)
    mask[2:5, 2:5] = True
    meter.add(mask.astype(np.float32), mask)
    assert len(meter.result()) == 6 and all(value == pytest.approx(1.0) for value in meter.result().values())
    blind = PixelMeter(0.5)
    blind.add(np.zeros((10, 10), np.float32), mask)  # a frame that could not be localized
    result = blind.result()
    assert (result["auroc"], result["f1"], result["recall"]) == (0.5, 0.0, 0.0)
    assert image_auroc([0.1, 0.9], [False, False]) is None
    spike = np.zeros((240, 320), np.float32)
    spike[0, 0] = 1
    blob = np.zeros((240, 320), np.float32)
    blob[:10, :10] = 0.6
    assert image_score(blob) > image_score(spike)


def test_recall_by_the_size_of_things():
    mask, heatmap = np.zeros((100, 200), bool), np.zeros((100, 200), np.float32)
    for x, side, share in ((0, 9, 0.5), (12, 9, 0.2), (30, 15, 1.0), (50, 10, 1.0), (70, 40, 0.34), (120, 3, 0.0)):
        mask[:side, x : x + side] = True
        heatmap[: round(side * share), x : x + side] = 0.7
    heatmap[60:90] = 0.7  # a false region touches no thing
    meter = ThingMeter(0.5)
    meter.add(heatmap, mask)
    meter.add(heatmap, mask & False)
    assert meter.result() == {
        "under_100": {"things": 2, "recall": 0.5},
        "under_300": {"things": 2, "recall": 1.0},  # 225 pixels, and 100, which are not under 100
        "under_1000": {"things": 0, "recall": None},
        "larger": {"things": 1, "recall": 1.0},
    }


CAMERA = Camera.from_fov(64, 48, 1.0)
POSES = [Pose.look_at((2 * np.cos(a), 2 * np.sin(a), 1), (0, 0, 0)) for a in np.linspace(0, 5, 12)]


def make_dataset(root, kinds=("good", "missing"), poses=True, transforms=True):
    """A MAD layout with two test images a kind; the value 200 marks what is anomalous."""
    rng = np.random.default_rng(0)
    (root / "train/good").mkdir(parents=True)
    names = [f"train/good/{i:03d}.png" for i in range(8)]
    for name in names:
        write_image(root / name, rng.integers(0, 100, (48, 64, 3), np.uint8))
    if transforms:
        write_transforms(root / "transforms.json", PosedImages(CAMERA, root, tuple(names), tuple(POSES[:8])))
    tests = {}
    for k, kind in enumerate(kinds):
        (root / "test" / kind).mkdir(parents=True)
        for i in range(2):
            image = rng.integers(0, 100, (48, 64, 3), np.uint8)
            mask = np.zeros((48, 64), np.uint8)
            if kind != "good":
                mask[10:20, 10 + 20 * i : 20 + 20 * i] = 255
                (root / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
                write_image(root / f"ground_truth/{kind}/{i:03d}_mask.png", mask)
            image[mask > 0] = 200
            image[0, 0] = 10 * k + i
            write_image(root / f"test/{kind}/{i:03d}.png", image)
            tests[f"test/{kind}/{i:03d}.png"] = POSES[8 + 2 * k + i].opengl().tolist()
    if poses:
        write_json(root / "test_poses.json", tests)
    return root


def make_site(path, root, shift=0.0):
    """A site of which only the parts that evaluation reads are there."""
    site = Site.create(path, "test")
    for stage in ("survey", "map", "radiance", "detector"):
        with site.stage(stage) as work:
            if stage in ("survey", "map"):
                poses = tuple(Pose(p.rotation, p.translation + shift) for p in POSES[:8])
                names = tuple(f"images/{i:03d}.png" for i in range(8))
                (work / "images").mkdir()
                for name in names:
                    normal = root / "train/good" / Path(name).name
                    write_image(
                        work / name, read_image(normal) if normal.is_file() else np.zeros((48, 64, 3), np.uint8)
                    )
                write_transforms(work / "transforms.json", PosedImages(CAMERA, work, names, poses))
    return site


class StandInDetector:
    """In place of the inspector's detector: what it states of its thresholds, each its rate's complement."""

    threshold, false_alarm_rate, options = 0.5, 0.5, OURS

    def threshold_at(self, false_alarm_rate):
        return 1 - false_alarm_rate


class StandIn:
    """In place of an inspector: knows each test image by its first pixel; one of them it cannot localize."""

    detector, tracker = StandInDetector(), Tracker()

    def __init__(self, site, options=None):
        self.shift = site.mapped.poses[0].translation - POSES[0].translation
        nothing = np.zeros(0, np.int32)
        self.points = SparsePoints(
            np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), nothing, nothing, np.zeros((0, 2))
        )

    def reset(self):
        pass

    def working_camera(self, camera):
        return camera.resized(32, 24)

    def inspect(self, image, camera, prior, stamp, alone, doubt):
        assert prior is None and camera == CAMERA and not alone
        kind, number = divmod(int(image[0, 0, 0]), 10)
        lost = (kind, number) == (1, 1)
        truth = POSES[8 + 2 * kind + number]
        pose = None if lost else Pose(truth.rotation, truth.translation + self.shift + 0.01)
        depth = np.full((24, 32), 1.0, np.float32)
        depth[:, :8] = np.nan
        heatmap = np.float32(np.zeros(image.shape[:2]) if lost else (image.max(-1) > 150) * 0.9 + 0.05)
        reference = None if lost else ReferenceView(np.full((24, 32, 3), 50, np.uint8), depth)
        ms = {"localize": 10.0, "render": 20.0, "detect": 5.0, "total": 35.0}
        localization = Localization(pose, None if lost else np.eye(6), 0, "lost" if lost else "tracked")
        mask = np.zeros(image.shape[:2], np.uint8)
        state = ("lost", "the frame could not be localized in the map") if lost else ("ok", "")
        return Inspection(pose, localization, reference, heatmap, heatmap, mask, [], [], *state, ms)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_evaluate_writes_metrics_and_a_contact_sheet(tmp_path, monkeypatch, shift):
    monkeypatch.setattr("omniad_ros.evaluation.evaluate.Inspector", StandIn)
    root = make_dataset(tmp_path / "data")
    make_site(tmp_path / "site", root, shift)
    metrics = evaluate_dataset(root, tmp_path / "site", tmp_path / "out")
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    assert metrics["frames"] == 4 and set(metrics["by_kind"]) == {"good", "missing"}
    assert metrics["pixel"]["precision"] == 1 and metrics["pixel"]["recall"] == 0.5  # half of it lies in the lost frame
    assert metrics["pixel"]["auroc"] == pytest.approx(0.56, abs=0.01)  # and its empty heatmap ranks below all others
    assert metrics["image"]["auroc"] == 0.5  # the lost frame ranks below the good ones, the other above
    assert metrics["localization"]["success"] == 0.75 and metrics["localization"]["localized"] == 0.75
    assert metrics["localization"]["median_m"] == pytest.approx(0.01 * 3**0.5, abs=1e-4)  # in the dataset's frame
    assert metrics["reference"]["covered"] == 0.75 and 15 < metrics["reference"]["psnr"] < 30
    assert metrics["by_size"]["under_300"] == {"things": 2, "recall": 0.5} and metrics["false_regions"] == 0
    assert metrics["false_alarms"] == {"stated": 0.5, "measured": 0, "at": {"0.05": 0, "0.1": 0, "0.2": 0, "0.5": 0}}
    assert metrics["ms"]["total"] == 35 and metrics["states"] == {"ok": 3, "lost": 1}
    assert set(metrics) >= {"frames", "pixel", "image", "by_kind", "localization", "reference", "ms"}
    assert read_image(tmp_path / "out/contact_sheet.jpg").shape[1] > 1280
    table = evaluation.format_table({"data": metrics}, by_kind=True)
    assert "missing" in table and "0.750" in table


def test_several_datasets_make_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr("omniad_ros.evaluation.evaluate.Inspector", StandIn)
    for name in ("01Gorilla", "02Unicorn"):
        make_dataset(tmp_path / "MAD-Sim" / name)
    monkeypatch.setattr("omniad_ros.evaluation.evaluate.build_site", lambda survey, out, *_: make_site(out, survey))
    table = evaluate_datasets([tmp_path / "MAD-Sim"], None, tmp_path / "out")
    assert "01Gorilla" in table and "mean" in table
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["mean"]["by_size"]["under_300"] == {"things": 4, "recall": 0.5}
    assert metrics["mean"]["frames"] == 8 and metrics["datasets"]["02Unicorn"]["frames"] == 4


def test_layouts(tmp_path):
    mad = read_dataset(make_dataset(tmp_path / "mad"))
    assert mad.layout == "MAD" and len(mad.frames) == 4
    assert all(f.pose is not None and (f.mask is None) == f.normal for f in mad.frames)
    mvtec = read_dataset(make_dataset(tmp_path / "bottle", ("good", "broken"), poses=False, transforms=False))
    assert (
        mvtec.layout == "MVTec" and mvtec.frames[0].pose is None and sum(f.mask is not None for f in mvtec.frames) == 2
    )
    with pytest.raises(OmniadError, match="looked for test/<kind>"):
        read_dataset(tmp_path)
    with pytest.raises(OmniadError, match="looked for train/good"):
        (tmp_path / "half/test/good").mkdir(parents=True)
        write_image(tmp_path / "half/test/good/0.png", np.zeros((8, 8, 3), np.uint8))
        read_dataset(tmp_path / "half")


@pytest.mark.parametrize("form", ["list", "bare", "without suffix", "nested", "records", "capitals"])
def test_true_poses_in_the_forms_that_people_write(tmp_path, form):
    root = make_dataset(tmp_path / "data")
    poses = json.loads((root / "test_poses.json").read_text())
    expected = [f.pose.translation for f in read_dataset(root).frames]
    write_json(root / "test_poses.json", {
        "list": [{"file_path": f"./{path}", "transform_matrix": pose} for path, pose in poses.items()],
        "bare": {path.removeprefix("test/"): pose for path, pose in poses.items()},
        "without suffix": {path.removesuffix(".png"): pose for path, pose in poses.items()},
        "nested": {kind: {p.split("/")[2]: m for p, m in poses.items() if f"/{kind}/" in p} for kind in ("good", "missing")},
        "records": {path: {"transform_matrix": pose} for path, pose in poses.items()},
        "capitals": {path.replace("missing", "Missing"): pose for path, pose in poses.items()},
    }[form])  # fmt: skip
    assert np.allclose([f.pose.translation for f in read_dataset(root).frames], expected)


def test_masks_in_the_forms_that_people_draw(tmp_path):
    truth = np.zeros((48, 64), np.uint8)
    truth[10:20, 10:30] = 1
    soft = np.where(truth, 255, 0).astype(np.uint8)
    soft[9, 10:30] = 60  # an edge that was smoothed
    numbered = truth.copy()
    numbered[10:20, 20:30] = 7
    pictures = [
        truth,
        soft,
        numbered,
        np.repeat(truth[..., None] * 255, 3, 2),
        np.kron(truth, np.ones((2, 2), np.uint8)) * 255,
    ]
    for index, picture in enumerate(pictures):
        write_image(tmp_path / f"{index}.png", picture)
        assert np.array_equal(read_mask(tmp_path / f"{index}.png", 64, 48), truth > 0), index
    root = make_dataset(tmp_path / "data")
    folder = root / "ground_truth" / "missing"
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("_mask.png", ".PNG")))
    folder.rename(folder.with_name("Missing"))
    assert sum(f.mask is not None for f in read_dataset(root).frames) == 2


def test_a_nerfstudio_set_without_tests_holds_out_normal_frames(tmp_path):
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    names = tuple(f"images/{i}.png" for i in range(12))
    for name in names:
        write_image(root / name, np.zeros((48, 64, 3), np.uint8))
    write_transforms(root / "transforms.json", PosedImages(CAMERA, root, names, tuple(POSES)))
    dataset = read_dataset(root)
    assert [f.image.name for f in dataset.frames] == ["4.png"] and dataset.frames[0].normal
    from omniad_ros.recordings import read_survey

    survey = read_survey(dataset.survey_without_tests(tmp_path / "out"))
    assert len(survey) == 11 and "4.png" not in survey.names


def test_bad_datasets_change_nothing(tmp_path):
    root = make_dataset(tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    with pytest.raises(OmniadError, match="not empty"):
        evaluate_dataset(root, tmp_path / "site", tmp_path / "out")
    with pytest.raises(OmniadError, match="not a site"):
        evaluate_dataset(root, tmp_path / "nowhere", tmp_path / "new")
    mask = root / "ground_truth/missing/000_mask.png"
    drawn = mask.read_bytes()
    write_image(mask, np.zeros((64, 48), np.uint8))
    with pytest.raises(OmniadError, match="shape of its image"):
        evaluate_dataset(root, None, tmp_path / "new")
    mask.write_bytes(drawn)
    image = root / "test/good/001.png"
    write_image(image, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(OmniadError, match="shape of the survey's"):
        evaluate_dataset(root, None, tmp_path / "new")
    (root / "transforms.json").write_text("{")
    with pytest.raises(OmniadError, match="JSON"):
        evaluate_dataset(root, None, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@dataclass(frozen=True)
class Found:
    id: int
    center: np.ndarray
    confirmed: bool = True


def test_a_patrol_is_scored_in_the_simulators_world(tmp_path):
    site = make_site(tmp_path / "site", tmp_path, shift=1.0)
    turn = Pose(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([5.0, 0, 0]))  # world_from_(map - 1)
    true = PosedImages(
        CAMERA, tmp_path, tuple(f"images/{i:03d}.png" for i in range(8)), tuple(turn @ p for p in POSES[:8])
    )
    write_transforms(tmp_path / "true_poses.json", true)
    alignment = align_truth(tmp_path / "true_poses.json", site)
    assert alignment.error < 1e-6
    assert np.allclose(alignment.points(turn.apply(np.zeros(3))), 1.0)

    def in_map(point):
        return alignment.points(np.array(point, float))

    cube, door = np.full(3, 0.3), np.array([0.8, 0.1, 1.6])
    anomalies = (
        PlantedAnomaly("drum", "moved", ((np.zeros(3), cube), (np.array([1.0, 0, 0]), cube))),
        PlantedAnomaly("cabinet", "open door", ((np.array([3.0, 0, 1]), door),)),
        PlantedAnomaly("cone", "added", ((np.array([0, 3.0, 0]), cube),)),
    )
    tracks = [
        Found(1, in_map([1.0, 0.2, 0])), Found(2, in_map([3.3, 0.2, 1.7])), Found(3, in_map([0, 3.4, 0])),
        Found(4, in_map([7, 7, 0])), Found(-5, in_map([8, 8, 0]), confirmed=False),
    ]  # fmt: skip
    mask = np.zeros((48, 64), np.uint8)
    mask[:10, :10] = 255
    truth = {float(i): TrueFrame(turn @ POSES[i], mask) for i in range(4)}
    ms = {"localize": 100.0, "total": 400.0}
    marked = (mask[::2, ::2] > 0) * 0.9
    records = [
        RecordedFrame(float(i), alignment.pose(turn @ POSES[i]), marked, marked * (i != 1), "ok", ms) for i in range(3)
    ]
    records.append(RecordedFrame(3.0, None, None, None, "lost", ms))
    score = score_patrol(records, tracks, PatrolTruth(alignment, truth, anomalies), 0.5)
    assert (score["planted"], score["found"], score["false_tracks"]) == (3, 2, 1)
    assert [row["found"] for row in score["anomalies"]] == [True, True, False]
    assert score["place_error_m"] == pytest.approx(0.175, abs=0.03)
    assert score["pixel"]["recall"] == pytest.approx(0.75, abs=0.05) and score["localization"]["success"] == 0.75
    assert score["pixel_independent"]["recall"] == pytest.approx(0.5, abs=0.05)  # one frame alone showed nothing
    assert score["states"] == {"ok": 3, "lost": 1} and score["ms"]["total"] == 400
    assert "2 of 3" in evaluation.format_score(score)


def test_alignment_needs_three_poses():
    with pytest.raises(ValueError):
        Alignment.fit(POSES[:2], POSES[:2], with_scale=False)
