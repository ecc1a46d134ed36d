"""The command as a user types it: real processes, one sentence for what went wrong, nothing left behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from omniad_ros.cli import COMMANDS


def omniad(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "omniad_ros.cli", *map(str, arguments)], capture_output=True, text=True, timeout=600
    )


HEAVY = ("numpy", "torch", "scipy", "cv2", "pycolmap", "nerfstudio", "rclpy")


def heavy_modules_after(*commands):
    """Which heavy libraries are loaded once these help texts have been asked for."""
    code = f"""
import contextlib, sys
from omniad_ros import cli
for words in {commands!r}:
    with contextlib.suppress(SystemExit):
        cli.main(words)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return ended.stdout.splitlines()[-1], ended.stdout


def test_help_comes_without_loading_the_heavy_libraries():
    result = omniad("--help")
    assert result.returncode == 0
    assert all(
        command in result.stdout for command in ("demo", "build", "evaluate", "inspect", "run", "bench", "doctor")
    )
    loaded, _ = heavy_modules_after(["--help"], *([name, "--help"] for name in COMMANDS))
    assert loaded == "[]"
    assert omniad("--version").stdout.startswith("omniad ")


def test_each_command_tells_its_options_and_their_defaults():
    _, said = heavy_modules_after(*([name, "--help"] for name in COMMANDS))
    words = "--camera-xyz X Y Z", "--baseline IMAGE IMAGE METRES", "--viewer [FILE.rrd]", "320)", "/camera/image_raw)"
    assert all(word in said for word in (*words, "--max-num-iterations 5000", "nerfstudio")), said


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
        [],
        ["--no-such-option"],
        ["evaluate", "--out", "O"],
        ["build", "S", "T", "--out", "O"],
        ["build", "S", "--out"],
        ["build", "S", "--out", "O", "--longest-side", "63"],
        ["inspect", "S", "I", "--out", "O", "--camera-xyz", "0", "1"],
        ["inspect", "S", "I", "--out", "O", "--camera-rpy", "0", "1", "up"],
        ["inspect", "S", "I", "--out", "O", "--independant"],
        ["build", "S", "--out", "O", "--baseline", "a", "b", "1", "--distance", "a", "1", "2", "b", "1", "2", "1"],
    ],
    ids=str,
)
def test_wrong_options_get_one_sentence(capsys, options):
    from omniad_ros import cli

    with pytest.raises(SystemExit) as ended:
        cli.main(options)
    complaint = capsys.readouterr().err
    assert ended.value.code == 2 and complaint.count("\n") == 1 and "--help" in complaint
    wrong = [word for word in options[3:] if word.startswith("--") and word != "--out"]
    assert not wrong or any(word in complaint for word in wrong), complaint


@pytest.mark.parametrize(
    ("words", "viewer"), [([], False), (["--viewer"], True), (["--viewer", "day.rrd"], Path("day.rrd"))], ids=str
)
def test_the_live_view_takes_a_file_or_none(words, viewer):
    from omniad_ros.commands.run import RunCommand
    from omniad_ros.core.command_line import parse

    for placed in ((*words, "--compressed", "SITE"), ("SITE", *words)):
        options, further = parse(RunCommand, placed, "omniad run")
        assert (options.site, options.viewer, further) == (Path("SITE"), viewer, [])


def test_options_of_omniad_and_nerfstudio_in_any_order(tmp_path):
    from omniad_ros.commands.build import BuildCommand
    from omniad_ros.core.command_line import parse

    words = ["S", "--max-num-iterations=5", "--seed", "3", "--pipeline.model.milestones", "0.1", "0.2", "--out", "O"]
    options, further = parse(BuildCommand, [*words, "--distance", *"a123b45"], "omniad build")
    assert (options.survey, options.out, options.site.seed) == (Path("S"), Path("O"), 3)
    assert options.site.distance == tuple("a123b45")
    assert further == ["--max-num-iterations=5", "--pipeline.model.milestones", "0.1", "0.2"]


@pytest.mark.parametrize(
    ("words", "where", "value"),
    [
        (["--pipeline.model.num-proposal-samples-per-ray", "32", "16"], "model.num_proposal_samples_per_ray", (32, 16)),
        (["--pipeline.model.num-proposal-samples-per-ray=[32, 16]"], "model.num_proposal_samples_per_ray", (32, 16)),
        (["--pipeline.model.enable-collider", "False"], "model.enable_collider", False),
        (["--pipeline.model.enable-collider", "false"], "model.enable_collider", False),
        (["--pipeline.model.background-color", "white"], "model.background_color", "white"),
        (["--pipeline.model.collider-params.near-plane=3"], "model.collider_params", {"near_plane": 3.0, "far_plane": 6.0}),
        (["--pipeline.model.far-plane", "9", "--pipeline.model.far-plane", "5e1"], "model.far_plane", 50.0),
        (["--pipeline.datamanager.dataparser.scale-factor", "2"], "datamanager.dataparser.scale_factor", 2.0),
        (["--pipeline.datamanager.data", "a b"], "datamanager.data", Path("a b")),
    ],
    ids=str,
)  # fmt: skip
def test_nerfstudios_options_have_the_kind_that_it_declares(words, where, value):
    from omniad_ros.reference.configuration import method_config

    found = method_config("nerfacto", words).pipeline
    for name in where.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "words",
    [
        ["--pipeline.model._target", "os.system"],
        ["--pipeline.model.-target", "os.system"],
        ["--pipeline.setup", "3"],
        ["--pipeline.datamanager.collate-fn", "os.system"],
        ["--pipeline.datamanager.dataparser", "blender-data"],
        ["--pipeline.model.camera-optimizer", '{"mode": "off"}'],
        ["--pipeline.datamanager.camera-optimizer", '{"mode": "off"}'],
        ["--pipeline.model.background-color", "pink"],
        ["--pipeline.model.num-proposal-samples-per-ray", "32", "many"],
        ["--pipeline.model.num-proposal-samples-per-ray"],
        ["--max-num-iterations", "5", "7"],
        ["--no-such-option", "5"],
        ["nerfstudio-data"],
    ],
    ids=str,
)
def test_a_field_is_told_values_but_not_what_to_run(words):
    from omniad_ros.core.feedback import OmniadError
    from omniad_ros.reference.configuration import method_config

    with pytest.raises(OmniadError) as refused:
        method_config("nerfacto", ["--max-num-iterations", "5", *words] if words[0].startswith("--") else words)
    assert words[0] in str(refused.value) and "\n" not in str(refused.value)


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
    assert [entry.name for entry in tmp_path.iterdir()] == ["bench.json"]
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["localized"] == 1.0
    assert 0 < figures["ms"]["localize"]["median"] < figures["ms"]["total"]["median"]


def test_an_interrupted_bench_goes_on_where_it_says_so(tiny_site, tmp_path, monkeypatch, capsys):
    from omniad_ros import cli
    from omniad_ros.patrol.pipeline import Inspector

    inspect, stamps = Inspector.inspect, []

    def watched(self, image, camera, prior, stamp):
        if len(stamps) == 5:
            raise KeyboardInterrupt
        stamps.append(stamp)
        return inspect(self, image, camera, prior, stamp=stamp)

    monkeypatch.setattr(Inspector, "inspect", watched)
    words = ["bench", str(tiny_site), "--frames", "4"]
    assert cli.main(words) == 130
    assert "interrupted" in (said := capsys.readouterr().err) and "goes on" not in said
    stamps.clear()
    figures = tmp_path / "bench.json"
    assert cli.main([*words, "--json", str(figures)]) == 130
    assert "goes on where it stopped" in capsys.readouterr().err
    stamps[:] = [-1]  # of three frames for warmth and two that were timed, the timed ones are not timed again
    monkeypatch.setattr(
        Inspector,
        "inspect",
        lambda self, *given, **named: stamps.append(named["stamp"]) or inspect(self, *given, **named),
    )
    assert cli.main([*words, "--json", str(figures)]) == 0
    assert stamps[1:] == [0.0, 1.0, 2.0, 5.0, 6.0]
    assert json.loads(figures.read_text())["localized"] == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["bench.json"]
