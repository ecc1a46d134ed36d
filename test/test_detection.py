"""The detector on a small made-up place: training, saving, calibration, regions, and what it refuses."""

import json
import shutil
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem

import cv2
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.detection import (
    ComparedFrame,
    Detector,
    DetectorOptions,
    NormalView,
    NormalViews,
    adapt_detector,
    find_regions,
    train_detector,
)
from omniad_ros.detection.anomalies import nuisances, plant, rendered
from omniad_ros.detection.calibrating import logistic_weights
from omniad_ros.detection.calibration import Calibration
from omniad_ros.detection.comparison import load_bundled
from omniad_ros.detection.matching import blur_extent, blur_matched, motion_kernel
from omniad_ros.detection.networks import Networks
from omniad_ros.detection.scores import hysteresis
from omniad_ros.detection.second_look import look_again
from omniad_ros.detection.student import BUNDLED, ReverseDistillation, choose_backbone, load_teacher
from omniad_ros.evaluation.ablation import ROWS, AblationData, ablation, format_ablation
from omniad_ros.lab.train_comparison import collage
from omniad_ros.reference import Rendering
from omniad_ros.reference.full_size import FullSize
from omniad_ros.reference.photographs import Photographs
from omniad_ros.reference.view import FALSE_ALARM_STEPS, ReferenceView

OPTIONS = DetectorOptions(backbone="compact", distillation_steps=12, comparison_steps=6, longest_side=160)
DEPTH = 2.0
"""Metres to the place, a picture on a plane."""
CAMERA, POSE = Camera.from_fov(160, 128, 1.0), Pose.look_at((0, -2, 1), (0, 0, 0))


def uint8(image):
    return np.uint8(np.clip(image, 0, 1) * 255)


def looks(place, rng, count):
    """Views of one place, each from a little to the side, beside what a field might render of them."""
    views = []
    for _ in range(count):
        dx, dy = rng.integers(0, 40, 2)
        frame = np.ascontiguousarray(place[dy : dy + 128, dx : dx + 160])
        frame, reference = nuisances(rng, frame, rendered(rng, frame, 0.5), pixels=0.3)
        depth = np.full((128, 160), DEPTH, np.float32)
        pose = Pose(np.eye(3), np.array([dx / CAMERA.fx, dy / CAMERA.fy, 0.0]) * DEPTH)
        views.append(NormalView(uint8(frame), ReferenceView(uint8(reference), depth), pose))
    return views


def regions(heatmap, view, threshold, reference=None, smallest=OPTIONS.smallest_region):
    frame = ComparedFrame(view.image, reference or view.reference, CAMERA, POSE)
    return find_regions(heatmap, frame, threshold=threshold, smallest=smallest)


def enlarged(image):
    """A photograph of which ``image`` is half the size."""
    return cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)


@dataclass
class Pictures:
    """Stands for a site's mapped images."""

    images: list

    def image(self, index):
        return self.images[index]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    rng = np.random.default_rng(3)
    place, out = collage(rng), tmp_path_factory.mktemp("site") / "detector"
    facts = train_detector(NormalViews(looks(place, rng, 12), looks(place, rng, 8)), out, OPTIONS)
    assert facts["teacher"] == "compact" and facts["calibration_views"] == 4
    return out, looks(place, rng, 6)


def test_planted_anomalies_stand_out_and_normal_views_stay_quiet(trained):
    out, views = trained
    detector, rng = Detector.load(out), np.random.default_rng(5)
    inside, outside = [], []
    for view in views:
        normal = detector.heatmap(view.image, view.reference)
        assert normal.dtype == np.float32 and normal.shape == (128, 160) and 0 <= normal.min() <= normal.max() <= 1
        assert len(regions(normal, view, detector.threshold)) <= 1
        changed, alpha = plant(rng, "recoloured", view.image.astype(np.float32) / 255, [view.image / np.float32(255)])
        heat = detector.heatmap(uint8(changed), view.reference)
        visible = np.abs(changed - view.image / 255).mean(2) > 0.08
        inside.append(heat[(alpha > 0.5) & visible])
        outside.append(heat[alpha < 0.01])
    assert np.median(np.concatenate(inside)) > np.quantile(np.concatenate(outside), 0.95)


def test_uncovered_pixels_are_never_anomalous_and_the_reference_may_be_missing_or_smaller(trained):
    out, views = trained
    detector, view = Detector.load(out), views[0]
    depth = view.reference.depth.copy()
    depth[:, :50] = np.nan
    mirrored = ReferenceView(view.reference.image[:, ::-1].copy(), depth)
    assert not detector.heatmap(view.image, mirrored)[:, :50].any()
    assert detector.heatmap(view.image).shape == (128, 160)
    large = view.image.repeat(2, axis=0).repeat(2, axis=1)
    assert detector.heatmap(large, replace(view.reference, depth=depth)).shape == (256, 320)


def test_what_no_photograph_shows_or_they_contradict_each_other_about_is_not_covered(trained):
    view = trained[1][0].reference
    support, alarm = np.full((128, 160), 4, np.uint8), np.zeros((128, 160), np.uint8)
    support[20:60, 20:60], alarm[20:60, 100:140] = 0, round(5.5 * FALSE_ALARM_STEPS)
    support[100:108, 50:58] = 0  # a gap, as along a silhouette
    covered = replace(view, support=support, false_alarm=alarm).covered
    assert not covered[30:50, 30:50].any() and not covered[30:50, 110:130].any()
    assert covered[70:].all() and covered[:, 70:90].all()


@pytest.mark.parametrize("highest", [np.inf, 4.0])
def test_the_false_alarm_rates_that_are_stated_are_those_that_normal_frames_have(highest):
    rng = np.random.default_rng(0)
    calibration = Calibration.fitted(rng.gumbel(3.0, 1.0, 60), 0.0, 0.01, (-np.inf, highest))
    levels = calibration.heatmap(rng.gumbel(3.0, 1.0, 100_000))
    for stated in (calibration.rate, 0.05, 0.2, 0.5):
        measured = (levels >= calibration.threshold(stated)).mean()
        assert stated / 2 < measured < 2 * stated, stated
    assert calibration.rate == pytest.approx(0.01) if np.isinf(highest) else calibration.rate > 0.1
    assert calibration.threshold(calibration.rate) == 0.5


def test_the_threshold_of_another_false_alarm_rate_leaves_the_detector_as_it_is(trained):
    detector = Detector.load(trained[0])
    default = detector.threshold
    assert detector.threshold_at(detector.false_alarm_rate) == default
    assert detector.threshold_at(detector.false_alarm_rate / 2) > default > detector.threshold_at(0.5)
    assert detector.threshold == default
    with pytest.raises(AttributeError):
        detector.threshold = 0.8
    for wrong in (0, 1.5, float("nan")):
        with pytest.raises(OmniadError):
            detector.threshold_at(wrong)


def test_a_region_has_its_place_in_the_map(trained):
    view = trained[1][0]
    heat = np.zeros((128, 160), np.float32)
    heat[60:70, 75:90] = 0.9
    small = ReferenceView(view.reference.image[::2, ::2].copy(), np.full((64, 80), 2.0, np.float32))
    (found,) = regions(heat, view, 0.5, small)
    assert found.box == (75, 60, 90, 70) and found.area == 150 and found.kind in ("missing", "added", "changed")
    u, v = CAMERA.project(POSE.inverse().apply(found.center))
    assert abs(u - 82.5) < 1.5 and abs(v - 65) < 1.5
    assert np.isclose(POSE.inverse().apply(found.center)[2], 2.0)
    heat[60:70, 80:84] = 0  # parts of one thing
    heat[20:30, 75:90] = 0.9
    unseen = replace(view.reference, depth=np.full((128, 160), np.nan, np.float32))
    parts = regions(heat, view, 0.5, unseen)
    assert sorted((d.box, d.area) for d in parts) == [((75, 20, 90, 30), 150), ((75, 60, 90, 70), 110)]
    assert all(d.center is None and d.size is None for d in parts)
    assert [d.area for d in regions(heat, view, 0.5, smallest=120 / heat.size)] == [150]


def test_a_site_carries_the_teacher_that_was_given_by_hand(trained, tmp_path):
    weights = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), weights)
    options = replace(
        OPTIONS, backbone="resnet18", teacher_weights=str(weights), distillation_steps=1, comparison=False
    )
    train_detector(NormalViews(trained[1] * 2, trained[1]), tmp_path / "site", options)
    view, given = trained[1][0], Detector.load(tmp_path / "site")
    weights.unlink()
    again = Detector.load(tmp_path / "site").heatmap(view.image)
    assert given.teacher.backbone == "resnet18" and np.array_equal(again, given.heatmap(view.image))


def test_dinov2_is_a_teacher_where_timm_has_it(tmp_path):
    timm = pytest.importorskip("timm")
    try:
        net = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0)
    except RuntimeError:  # nerfstudio's timm is too old
        (tmp_path / "dino.safetensors").write_bytes(b"")
        with pytest.raises(OmniadError, match="needs timm"):
            load_teacher("dinov2_vits14", tmp_path / "dino.safetensors")
        return
    save_file(net.state_dict(), tmp_path / "dino.safetensors")
    teacher, _ = load_teacher(*choose_backbone("dinov2_vits14", str(tmp_path / "dino.safetensors")))
    maps = teacher(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(1, 384, 64 // s, 96 // s) for s in (4, 8, 16)]
    assert [m.shape for m in ReverseDistillation(teacher.channels)(maps)] == [m.shape for m in maps]


def test_damaged_descriptions_are_refused_with_a_sentence_that_names_the_field(trained, tmp_path):
    def change(name, at, value):
        broken = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        shutil.copytree(trained[0], broken)
        data = json.loads((broken / name).read_text())
        *path, last = at
        reduce(getitem, path, data)[last] = value
        (broken / name).write_text(json.dumps(data))
        return broken

    for name, at, value, told in (
        ("calibration.json", ["mean"], float("nan"), "calibration.json"),
        ("calibration.json", ["deviation"], 0.0, "deviation"),
        ("calibration.json", ["fused", "spread"], "wide", "fused.spread"),
        ("calibration.json", ["fused"], None, "calibration"),
        ("calibration.json", ["version"], 99, "does not know"),
        ("detector.json", ["options"], [], "options"),
        ("detector.json", ["options", "longest_side"], "320", "options.longest_side"),
        ("detector.json", ["teacher"], {"backbone": "compact"}, "sha256"),
    ):
        with pytest.raises(OmniadError, match=told):
            Detector.load(change(name, at, value))
    Detector.load(
        change("detector.json", ["options", "an_option_of_before"], 3)
    )  # sites that were built before still open


def test_altered_sites_and_wrong_input_are_refused_with_a_sentence(trained, tmp_path):
    out, views = trained
    for name, text in (("detector.json", "{"), ("calibration.json", '{"version": 1}')):
        broken = tmp_path / name.split(".")[0]
        broken.mkdir()
        for path in out.iterdir():
            (broken / path.name).write_bytes(path.read_bytes())
        (broken / name).write_text(text)
        with pytest.raises(OmniadError):
            Detector.load(broken)
    altered = tmp_path / "altered"
    altered.mkdir()
    for path in out.iterdir():
        (altered / path.name).write_bytes(path.read_bytes())
    meta = json.loads((out / "detector.json").read_text())
    meta["teacher"]["sha256"] = "0" * 64
    (altered / "detector.json").write_text(json.dumps(meta))
    with pytest.raises(OmniadError, match="not the teacher"):
        Detector.load(altered)
    with pytest.raises(OmniadError):
        Detector.load(out).heatmap(views[0].image.astype(np.float32))
    with pytest.raises(OmniadError, match="held out"):
        train_detector(NormalViews(views, []), tmp_path / "none", OPTIONS)
    with pytest.raises(OmniadError, match="unknown backbone"):
        train_detector(NormalViews(views * 2, views), tmp_path / "none", replace(OPTIONS, backbone="vgg"))
    assert not (tmp_path / "none").exists()


def test_references_are_redrawn_from_the_surveys_photographs():
    rng = np.random.default_rng(1)
    wall = collage(rng)  # a picture on the plane z = 2 m, photographed from places beside each other

    def photograph(x):
        return uint8(
            cv2.warpAffine(wall, np.float32([[1, 0, -20 - 70 * x], [0, 1, -20]]), (160, 128), flags=cv2.INTER_LINEAR)
        )

    camera = Camera(160, 128, 140.0, 140.0, 80.0, 64.0)
    poses = [Pose(np.eye(3), np.array([x, 0.0, 0.0])) for x in (-0.4, -0.2, 0.0, 0.2, 0.4)]
    depth = np.full((128, 160), 2.0, np.float32)
    views = Photographs.of([photograph(p.translation[0]) for p in poses], [depth] * 5, poses, camera)
    truth = photograph(0.0)
    field = uint8(cv2.GaussianBlur(truth.astype(np.float32) / 255, (0, 0), 3))
    wrong = depth.copy()
    wrong[:40, :40] = 1.2  # a floater, with which no photograph agrees
    raised = np.full((128, 160), -9.0, np.float32)
    raised[90:100, 110:120] = -2.0  # what was wrongly raised in the photograph at the left
    views = views.with_false_alarms([raised, *[np.full_like(raised, -9.0)] * 4])
    redrawn = views.without(poses[2]).redraw(Rendering(field, wrong), camera, poses[2])
    alarm, mended = redrawn.false_alarm_logits, redrawn.depth
    assert np.isclose(alarm[95, 101 - 14], 4.0) and alarm.max() == 4.0 and not alarm[:64].any()
    inside = redrawn.support >= 2
    assert inside[64:, 64:].mean() > 0.9
    # the photographs know what lies behind the floater, and where the field knows nothing
    wrong[60:80, 60:80] = np.nan
    np.testing.assert_allclose(
        views.without(poses[2]).redraw(Rendering(field, wrong), camera, poses[2]).depth[:, 30:130], 2.0, atol=0.01
    )
    assert inside[:36, 16:36].mean() > 0.9 and (mended[:36, 16:36] == 2.0).all()
    # where they saw nothing either, the field is all there is
    blind = views.depths.copy()
    blind[:, :, :70] = np.nan
    nobody = replace(views, depths=blind).redraw(Rendering(field, wrong), camera, poses[2])
    assert not nobody.support[:30, 20:30].any() and (nobody.image[:30, 20:30] == field[:30, 20:30]).all()
    error = [np.abs(image[inside].astype(float) - truth[inside]).mean() for image in (redrawn.image, field)]
    assert error[0] < 0.3 * error[1]


def test_networks_stay_on_their_device_until_the_result_is_read(trained, monkeypatch):
    """On torch's meta device, which has shapes but no values: stands in for a GPU, where a stray tensor of the CPU is an error."""
    from omniad_ros.detection import comparison, networks, training

    for module in (comparison, networks, training):
        monkeypatch.setattr(module, "device", lambda: torch.device("meta"))
    loaded, view = Detector.load(trained[0]).networks, trained[1][0]
    frame, student = view.image.astype(np.float32) / 255, ReverseDistillation(loaded.teacher.channels)
    pairs = training.planted_pairs([view], [view], np.random.default_rng(0))
    for work in (
        lambda: loaded.comparison_scores(frame, frame, view.reference.covered),
        lambda: loaded.distillation_scores([view.image]),
        lambda: training.train_student(loaded.teacher, [view.image] * 4, OPTIONS, lambda f, m: None, start=student),
        lambda: comparison.fit(comparison.load_bundled(), pairs, comparison.ComparisonTraining(2, 1e-4, batch=2)),
    ):
        with pytest.raises(
            (RuntimeError, NotImplementedError), match=r"copy out of meta|item\(\) cannot be called on meta"
        ):
            work()


def test_a_thing_of_twelve_pixels_is_seen_at_the_second_look_wherever_it_lies():
    rng = np.random.default_rng(5)
    reference = cv2.resize(collage(rng)[:128, :160], (960, 768), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    teacher, _ = load_teacher("compact", BUNDLED)
    networks = Networks.for_inference(teacher, ReverseDistillation(teacher.channels), load_bundled())
    small = ReferenceView(
        uint8(cv2.resize(reference, (320, 256), interpolation=cv2.INTER_AREA)), np.ones((256, 320), np.float32)
    )
    view = replace(small, support=np.full((256, 320), 4, np.uint8), detail=uint8(reference))
    nothing = np.full((256, 320), -9.0, np.float32)  # the first look has seen nothing
    for x, y in ((70, 60), (480, 400), (900, 700)):
        frame, thing = reference.copy(), np.zeros((768, 960), np.uint8)
        cv2.circle(thing, (x, y), 6, 1, -1)
        frame[thing > 0] = 1 - frame[y, x].round()
        frame = np.clip(0.9 * frame + rng.normal(0, 0.01, frame.shape), 0, 1).astype(np.float32)
        logits = look_again(networks, frame, view, nothing)
        seen, around = ~np.isnan(logits), cv2.dilate(thing, np.ones((25, 25), np.uint8)) > 0
        assert 0.2 < seen.mean() < 0.6, "a second look has its budget"
        assert np.median(logits[thing > 0]) > 0 and (logits[seen & ~around] > 0).mean() < 1e-3
    assert not np.isnan(look_again(networks, frame, view, nothing, whole=True)).any()
    assert np.isnan(look_again(networks, frame, replace(view, support=0 * view.support), nothing)).all()


def test_a_reference_is_blurred_as_its_frame_is():
    rng = np.random.default_rng(2)
    sharp, everywhere = np.ascontiguousarray(collage(rng)[:128, :160]), np.ones((128, 160), bool)
    kernel = motion_kernel(5.0, 0.6)
    assert np.isclose(kernel.sum(), 1)
    frame = cv2.filter2D(sharp, -1, kernel) + rng.normal(0, 0.01, sharp.shape).astype(np.float32)
    before, after = (np.abs(frame - r).mean() for r in (sharp, blur_matched(frame, sharp, everywhere)))
    assert after < 0.6 * before
    view = ReferenceView(uint8(sharp), np.ones((128, 160), np.float32))
    assert 3 < blur_extent(uint8(frame), view) < 7 and blur_extent(uint8(sharp), view) == 0
    noisy = sharp + rng.normal(0, 0.01, sharp.shape).astype(np.float32)
    assert blur_matched(noisy, sharp, everywhere) is sharp, "a frame that is as sharp as its reference"


def test_what_is_linked_to_a_region_belongs_to_it():
    score = np.full((60, 80), -6.0, np.float32)
    score[20:40, 20:40] = 1.0  # the rim of a thing
    score[23:37, 23:37] = 2.5  # its middle
    score[20:40, 60:75] = 1.0  # as high as the rim, with no middle
    said = hysteresis(score) >= 2.0
    assert said[21:39, 21:39].all() and not said[:17].any() and not said[:, 50:].any()
    low = np.full((60, 80), 1.0, np.float32)
    low[28:32, 28:32] = 5.0
    assert (hysteresis(low) >= 2.0).sum() < 20 * 20  # and no farther than a few pixels


def test_a_detector_is_trained_beside_its_photographs_and_adapts_to_poses(trained, tmp_path):
    looked = [replace(v, source=i) for i, v in enumerate(trained[1] * 2)]
    full_size = FullSize(Pictures([enlarged(v.image) for v in looked]), CAMERA.resized(320, 256))
    views = NormalViews(looked[:8], looked[8:], camera=CAMERA, full_size=full_size)
    options = replace(OPTIONS, distillation_steps=2, comparison_steps=2, adaptation_steps=2)
    train_detector(views, tmp_path / "once", replace(options, second_look=False))
    assert Detector.load(tmp_path / "once").scores.detail is None
    train_detector(views, tmp_path / "first", options)
    detector, photographs = Detector.load(tmp_path / "first"), Photographs.load(tmp_path / "first/views.safetensors")
    renderings = [(Rendering(v.reference.image, v.reference.depth), v.pose) for v in looked[:2]]
    reference = photographs.redraw(renderings[0][0], CAMERA, looked[0].pose)
    assert reference.image.shape == (128, 160, 3) and reference.support.max() > 1
    assert detector.heatmap(looked[0].image, reference).shape == (128, 160)
    closer = photographs.redraw(renderings[0][0], CAMERA, looked[0].pose, full_size.camera, full_size)
    assert closer.detail.shape == (256, 320, 3) and (closer.image == reference.image).all()
    twice = detector.heatmap(enlarged(looked[0].image), closer)
    assert twice.shape == (256, 320) and not np.array_equal(
        twice, detector.heatmap(enlarged(looked[0].image), reference)
    )
    facts = adapt_detector(detector, views, renderings, tmp_path / "second", photographs=photographs)
    assert facts["aligned_views"] == 2 and len(Photographs.load(tmp_path / "second/views.safetensors").images) == 12
    assert Detector.load(tmp_path / "second").scores.detail is not None
    with pytest.raises(OmniadError, match="localized"):
        adapt_detector(detector, views, [], tmp_path / "third", photographs=photographs)


def test_the_ablation_has_a_row_for_each_part(trained):
    out, views = trained
    detector = Detector.load(out)
    frames, masks = [v.image for v in views], [np.zeros((128, 160), bool) for _ in views]
    masks[0][40:60, 50:80] = True
    ours = [detector.heatmap(v.image, v.reference) for v in views]
    data = AblationData(frames, frames[:2], frames[2:4], frames, masks, ours, OPTIONS, steps=2)
    results = ablation(data)
    assert tuple(results) == ROWS and all(0 <= row["auroc"] <= 1 for row in results.values())
    assert results["+ QANV"] != results["+ QANV, random teacher"] and "ours" in format_ablation(results)


def test_the_regression_finds_what_made_the_labels():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20000, 2))
    labels = rng.random(len(features)) < 1 / (1 + np.exp(-(1.5 * features[:, 0] - 0.5 * features[:, 1] - 1)))
    weights, bias = logistic_weights(features, labels, 1e-6)
    assert np.allclose(weights, [1.5, -0.5], atol=0.08) and np.isclose(bias, -1, atol=0.08)
