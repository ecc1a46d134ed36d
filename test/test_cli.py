"""The command as a user types it: real processes, one sentence for what went wrong, nothing left behind."""

import json
import shutil
import subprocess
import sys
import time

import pytest


def omniad(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "omniad_ros.cli", *map(str, arguments)], capture_output=True, text=True, timeout=600
    )


def test_help_comes_without_loading_the_heavy_libraries():
    started = time.perf_counter()
    result = omniad("--help")
    assert result.returncode == 0
    assert all(
        command in result.stdout for command in ("demo", "build", "evaluate", "inspect", "run", "bench", "doctor")
    )
    code = "import sys, omniad_ros.cli; print([m for m in ('torch', 'numpy', 'pycolmap', 'rclpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    print(f"omniad --help: {time.perf_counter() - started:.2f} s")


def spoil(transforms, **changes):
    def damage(dataset):
        data = json.loads((dataset / "transforms.json").read_text())
        transforms(data) if callable(transforms) else None
        (dataset / "transforms.json").write_text(
            json.dumps({k: v for k, v in (data | changes).items() if v is not None})
        )

    return damage


def without_images(dataset):
    shutil.rmtree(dataset / "train")


def one_image_smaller(dataset):
    import cv2

    file = dataset / "train" / "good" / "003.png"
    cv2.imwrite(str(file), cv2.imread(str(file))[:60, :80])


def nan_pose(data):
    data["frames"][2]["transform_matrix"][0][3] = float("nan")


def all_images_grey(dataset):
    import cv2
    import numpy as np

    for file in (dataset / "train" / "good").glob("*.png"):
        cv2.imwrite(str(file), np.full((120, 160, 3), 128, np.uint8))


@pytest.mark.parametrize(
    "damage",
    [without_images, one_image_smaller, spoil(nan_pose), spoil(None, fl_x=None, fl_y=None), all_images_grey],
    ids=["no images", "different sizes", "non-finite pose", "no intrinsics", "cannot be registered"],
)
def test_a_bad_survey_gets_one_sentence_and_changes_nothing(tiny_dataset, tmp_path, damage):
    dataset = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, dataset)
    damage(dataset)
    result = omniad("build", dataset, "--out", tmp_path / "site")
    complaint = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1 and complaint.startswith("omniad: ") and "unexpected" not in complaint, result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dataset"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--features", "hloc/no_such_thing/NN-ratio"], "hloc"),
        (["--baseline", "nowhere.png", "000.png", "1.5"], "no image named 'nowhere.png'"),
        (["--baseline", "000.png", "001.png", "-2"], "above 0 metres"),
        (["--distance", "000.png", "10", "x", "001.png", "5", "5", "1"], "as numbers"),
        (["--teacher", "resnet1000"], "unknown backbone"),
        (["--max-num-iterations", "0"], "at least one step"),
    ],
)
def test_a_build_that_cannot_be_gets_one_sentence_and_changes_nothing(tiny_dataset, tmp_path, capsys, options, words):
    from omniad_ros import cli

    assert cli.main(["build", str(tiny_dataset), "--out", str(tmp_path / "site"), *options]) == 1
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert complaint.startswith("omniad: ") and words in complaint and "unexpected" not in complaint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ["build"],
        ["build", "S", "--out", "O", "--seed", "-1"],
        ["bench", "S", "--frames", "none"],
        ["tidy"],
        ["doctor", "now"],
    ],
)
def test_wrong_options_get_one_sentence(capsys, options):
    from omniad_ros import cli

    with pytest.raises(SystemExit) as ended:
        cli.main(options)
    complaint = capsys.readouterr().err
    assert ended.value.code == 2 and complaint.count("\n") == 1 and "--help" in complaint


def test_too_few_images_are_told_before_the_work(tiny_dataset, tmp_path, capsys):
    from omniad_ros import cli

    photos = tmp_path / "photos"
    photos.mkdir()
    for file in sorted((tiny_dataset / "train" / "good").iterdir())[:12]:
        shutil.copy(file, photos)
    assert cli.main(["build", str(photos), "--out", str(tmp_path / "site")]) == 1
    assert "has only 12 images; a site needs at least 22" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["photos"]


def test_a_pipe_gets_lines_that_nothing_overwrites(tiny_dataset, tmp_path):
    result = omniad("survey", tiny_dataset, "--out", tmp_path / "survey")
    assert result.returncode == 0 and "\r" not in result.stderr
    lines = result.stderr.splitlines()
    assert 2 <= len(lines) <= 12 and "done" in lines[-1], lines
    assert result.stdout.splitlines()[-1] == f"Survey: {tmp_path / 'survey'}"


def test_a_folder_that_is_not_empty_stays_as_it_is(tiny_dataset, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = omniad("build", tiny_dataset, "--out", tmp_path)
    assert result.returncode == 1 and "not empty" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_no_space_is_said_before_anything_is_written(tiny_dataset, tmp_path, monkeypatch, capsys):
    from omniad_ros import cli
    from omniad_ros.building import build as building

    monkeypatch.setattr(building, "SPACE_EXTRA", 1e18)
    assert cli.main(["build", str(tiny_dataset), "--out", str(tmp_path / "site")]) == 1
    assert "no space" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_doctor_and_bench_tell_of_this_machine(tiny_site, tmp_path):
    assert "rclpy" in omniad("doctor").stdout
    result = omniad("bench", tiny_site, "--frames", 3, "--json", tmp_path / "bench.json")
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["localized"] == 1.0
    assert 0 < figures["ms"]["localize"]["median"] < figures["ms"]["total"]["median"]
