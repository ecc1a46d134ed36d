"""The `omniad` command: one function a subcommand, each only wiring.

Heavy libraries are imported where they are used, so that `omniad --help` answers at once. What a user can mend ends in
one sentence on stderr and exit status 1; a traceback is shown only with --debug.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from pathlib import Path

from omniad_ros import __version__
from omniad_ros.commands.terminal import ProgressBar, show_notes
from omniad_ros.core.feedback import OmniadError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = _parser()
    options, further = parser.parse_known_args(arguments)
    if hasattr(options, "field"):
        options.field_options = tuple(further)
    elif further:
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    _quieten()
    show_notes()
    try:
        options.run(options)
        return 0
    except OmniadError as error:
        if options.debug:
            raise
        print(f"omniad: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nomniad: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except OSError as error:
        if options.debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        sentence = (
            "no space left on the disk; free some and run the same command again"
            if full
            else f"{where}{error.strerror or error}"
        )
        print(f"omniad: {sentence}", file=sys.stderr)
        return 1
    except Exception as error:  # the last line of defence: users get a sentence, developers --debug
        if options.debug:
            raise
        print(
            f"omniad: unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)",
            file=sys.stderr,
        )
        return 1


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the options in one sentence, not below a page of usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def _at_least(least: int):
    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
        if not least <= number < 2**31:
            raise argparse.ArgumentTypeError(f"{text} is out of range, {least} is the least")
        return number

    return whole


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "omniad", description="Notice what is wrong on a patrol: survey a place once, then inspect every frame."
    )
    parser.add_argument("--version", action="version", version=f"omniad {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
        )
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", run_demo, "run the whole chain on a simulated robot: survey, build, patrol, report")
    demo.add_argument("--seed", type=_at_least(0), default=0, help="which simulated site (%(default)s)")
    demo.add_argument(
        "--out", type=Path, default=Path("omniad_demo"), help="where index.html and metrics.json go (%(default)s)"
    )

    survey = command(
        "survey", run_survey, "make a survey out of a rosbag2 or a video: sharp keyframes, with odometry's poses"
    )
    survey.add_argument("recording", type=Path, metavar="BAG", help="rosbag2 (sqlite3 or MCAP) or a video")
    survey.add_argument(
        "--out", type=Path, required=True, metavar="SURVEY", help="folder of the survey; it must be empty"
    )
    _bag_arguments(survey)

    build = command("build", run_build, "build the site of a survey (map, radiance field, detector)")
    build.add_argument(
        "survey",
        type=Path,
        metavar="SURVEY",
        help="folder with images and a transforms.json, MAD dataset, plain image folder, or video",
    )
    build.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="SITE",
        help="folder of the site; it must be empty or an unfinished build of the same survey",
    )
    _build_arguments(build)

    evaluate = command("evaluate", run_evaluate, "measure detection on a dataset with ground truth")
    evaluate.add_argument(
        "dataset",
        type=Path,
        nargs="+",
        metavar="DATASET",
        help="folder with train/good, test/<kind>, ground_truth/<kind> and transforms.json",
    )
    evaluate.add_argument("--site", type=Path, help="a site built from the dataset's normal images; built if not given")
    evaluate.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where metrics.json and the pictures go"
    )
    evaluate.add_argument(
        "--adapt",
        action="store_true",
        help="adapt a copy of the detector to where the test images were taken first (QANV)",
    )
    evaluate.add_argument(
        "--ablation",
        action="store_true",
        help="also measure what each part of the method adds; trains five students, half an hour",
    )
    _build_arguments(evaluate)

    adapt = command(
        "adapt",
        run_adapt,
        "adapt a site's detector to where the images to be inspected were taken (not to what they show)",
    )
    adapt.add_argument("site", type=Path, metavar="SITE")
    adapt.add_argument("images", type=Path, metavar="IMAGES", help="image folder, transforms.json, video or rosbag2")
    _bag_arguments(adapt)

    inspect = command("inspect", run_inspect, "inspect recorded images, a video or a rosbag2, without ROS")
    inspect.add_argument("site", type=Path, metavar="SITE")
    inspect.add_argument(
        "images",
        type=Path,
        metavar="IMAGES",
        help="rosbag2, video, or folder of images, with a transforms.json where their poses are roughly known",
    )
    inspect.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where heatmaps, masks and the report go"
    )
    inspect.add_argument(
        "--independent", action="store_true", help="judge each frame alone, without evidence from the frames before it"
    )
    _bag_arguments(inspect)

    run = command("run", run_run, "start the inspector and the renderer as ROS 2 processes (like inspect.launch.py)")
    run.add_argument("site", type=Path, metavar="SITE")
    run.add_argument("--image", default="/camera/image_raw", help="topic of the camera's images (%(default)s)")
    run.add_argument(
        "--camera-info", default="/camera/camera_info", help="topic of the camera's calibration (%(default)s)"
    )
    run.add_argument("--odom", default="/odom", help="topic of the odometry (%(default)s)")
    run.add_argument("--compressed", action="store_true", help="the image topic carries CompressedImage")
    run.add_argument("--namespace", default="/omniad", help="namespace of the nodes (%(default)s)")
    run.add_argument("--params-file", type=Path, help="ROS parameter file, as config/inspect.yaml")
    run.add_argument(
        "--viewer",
        nargs="?",
        const=True,
        default=False,
        type=Path,
        metavar="FILE.rrd",
        help="a live view by rerun: images, map, camera and tracks on a timeline; with a file it is recorded instead",
    )

    bench = command("bench", run_bench, "measure milliseconds a stage, frames a second and memory on this machine")
    bench.add_argument("site", type=Path, metavar="SITE")
    bench.add_argument("--frames", type=_at_least(1), default=30, help="how many frames are timed (%(default)s)")
    bench.add_argument(
        "--node", action="store_true", help="measure the nodes as processes beside the library, and their memory"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")

    command("doctor", run_doctor, "say what is installed, what that enables, and what to do for the rest")
    return parser


def _bag_arguments(parser: argparse.ArgumentParser) -> None:
    for name, what in (("image", "images"), ("camera-info", "calibration"), ("odom", "odometry")):
        parser.add_argument(
            f"--{name}", metavar="TOPIC", help=f"a bag's topic of the {what}; found by its type if not given"
        )
    parser.add_argument(
        "--camera-xyz",
        nargs=3,
        type=float,
        metavar=("X", "Y", "Z"),
        help="place of the camera on the robot in metres, instead of what /tf_static says",
    )
    parser.add_argument(
        "--camera-rpy",
        nargs=3,
        type=float,
        metavar=("R", "P", "Y"),
        help="roll, pitch and yaw of its body (x forward, z up) in radians",
    )


def _bag_options(options: argparse.Namespace):
    from omniad_ros.recordings.bag import BagOptions, mounted

    xyz, rpy = options.camera_xyz, options.camera_rpy
    mount = mounted(xyz or (0, 0, 0), rpy or (0, 0, 0)) if xyz or rpy else None
    return BagOptions(options.image, options.camera_info, options.odom, mount)


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Further options are nerfstudio's own, as for ns-train (--max-num-iterations 5000 "
        "--pipeline.model.far-plane 50); give them last."
    )
    parser.add_argument(
        "--field",
        metavar="METHOD",
        help="nerfstudio method of the radiance field: grid-field (default without a GPU), nerfacto (default with one), "
        "splatfacto, ...",
    )
    parser.add_argument(
        "--nerfstudio-run",
        type=Path,
        metavar="DIR",
        help="take over the field of a finished nerfstudio run on these images; its files can run code, so only your own",
    )
    parser.add_argument(
        "--features",
        metavar="NAME",
        default="sift",
        help="local features of the map: sift, aliked (where pycolmap can run it), or hloc/EXTRACTOR/MATCHER[/RETRIEVAL] by hloc's names, "
        "e.g. hloc/superpoint_max/superpoint+lightglue/netvlad (%(default)s)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--baseline",
        nargs=3,
        metavar=("IMAGE", "IMAGE", "METRES"),
        help="distance between the cameras of two survey images, where no odometry gives the map its scale",
    )
    length.add_argument(
        "--distance",
        nargs=7,
        metavar=("IMAGE", "U", "V", "IMAGE", "U", "V", "METRES"),
        help="the same between what two pixels of survey images show",
    )
    parser.add_argument(
        "--teacher",
        metavar="NAME",
        help="backbone of the detector's teacher: resnext50_32x4d, wide_resnet50_2, resnet34, resnet18, dinov2_vits14 or dinov2_vitb14 (by timm), or compact, the bundled one "
        "(default: ImageNet weights where torch's cache has them, else compact)",
    )
    parser.add_argument(
        "--teacher-weights",
        type=Path,
        metavar="FILE",
        help="the teacher's weights (torchvision's .pth, or safetensors)",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="reverse distillation as published: no attention, novel views or reference comparison",
    )
    parser.add_argument(
        "--longest-side",
        type=_at_least(64),
        default=320,
        help="pixels at which field and detector are trained (%(default)s)",
    )
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of everything random (%(default)s)")


def _build_options(options: argparse.Namespace):
    from omniad_ros.building.build import BuildOptions
    from omniad_ros.reference import default_method

    run, weights = options.nerfstudio_run, options.teacher_weights
    detector = {"attention": False, "use_novel": False, "comparison": False} if options.plain else {}
    detector |= {"backbone": options.teacher} if options.teacher else {}
    detector |= {"teacher_weights": str(weights.resolve())} if weights else {}
    return BuildOptions(
        options.field or default_method(),
        options.field_options,
        options.longest_side,
        detector=tuple(detector.items()),
        seed=options.seed,
        nerfstudio_run=str(run.resolve()) if run else "",
        features=options.features,
        distance=_known_distance(options),
    )


def _known_distance(options: argparse.Namespace) -> tuple | None:
    """(images, metres, pixels or None), as `BuildOptions.distance` wants it."""
    try:
        if options.baseline:
            first, second, metres = options.baseline
            return (first, second), float(metres), None
        if options.distance:
            first, u, v, second, x, y, metres = options.distance
            return (first, second), float(metres), ((float(u), float(v)), (float(x), float(y)))
    except ValueError:
        raise OmniadError("a known distance is given in metres and its places in pixels, as numbers") from None
    return None


def run_demo(options: argparse.Namespace) -> None:
    from omniad_ros.commands.demo import run_demo

    with ProgressBar() as progress:
        table = run_demo(options.out, options.seed, progress)
    print(table)
    print(f"Report: {options.out / 'index.html'}\nFigures: {options.out / 'metrics.json'}")


def run_survey(options: argparse.Namespace) -> None:
    from omniad_ros.core.feedback import part
    from omniad_ros.recordings import export_survey, read_survey
    from omniad_ros.recordings.bag import is_bag, read_bag

    with ProgressBar() as progress:
        reading = part(progress, 0.0, 0.7)
        if is_bag(options.recording):
            source = read_bag(options.recording, _bag_options(options), reading)
        else:
            source = read_survey(options.recording, reading)
        export_survey(source, options.out, part(progress, 0.7, 1.0))
    print(f"{len(source)} keyframes\nSurvey: {options.out}")


def run_build(options: argparse.Namespace) -> None:
    from omniad_ros.building.build import build_site

    with ProgressBar() as progress:
        build_site(options.survey, options.out, _build_options(options), progress)
    print(f"Site: {options.out}")


def run_evaluate(options: argparse.Namespace) -> None:
    from omniad_ros.evaluation import evaluate_datasets
    from omniad_ros.evaluation.evaluate import EvaluationOptions

    if options.site and options.field_options:
        raise OmniadError(
            f"nothing is built where --site is given, so {options.field_options[0]} has no meaning; leave it out"
        )
    chosen = EvaluationOptions(options.adapt, options.ablation)
    with ProgressBar() as progress:
        table = evaluate_datasets(options.dataset, options.site, options.out, _build_options(options), progress, chosen)
    print(table)
    print(f"Figures: {options.out / 'metrics.json'}")


def run_adapt(options: argparse.Namespace) -> None:
    from omniad_ros.building.adapt import adapt
    from omniad_ros.commands.inspect import InspectOptions

    with ProgressBar() as progress:
        count = adapt(options.site, options.images, InspectOptions(bag=_bag_options(options)), progress)
    print(f"adapted to {count} views\nSite: {options.site}")


def run_inspect(options: argparse.Namespace) -> None:
    from omniad_ros.commands.inspect import InspectOptions, inspect_images

    with ProgressBar() as progress:
        chosen = InspectOptions(independent=options.independent, bag=_bag_options(options))
        inspect_images(options.site, options.images, options.out, progress, chosen)
    print(f"Report: {options.out / 'index.html'}")


def run_run(options: argparse.Namespace) -> None:
    from omniad_ros.ros.processes import run_site

    run_site(
        options.site,
        options.image,
        options.camera_info,
        options.odom,
        options.compressed,
        options.namespace,
        options.params_file,
        options.viewer,
    )


def run_bench(options: argparse.Namespace) -> None:
    from omniad_ros.core.files import write_json
    from omniad_ros.evaluation.bench import BenchOptions, bench, format_bench

    if options.json and not options.json.absolute().parent.is_dir():
        raise OmniadError(f"the folder of {options.json} does not exist")
    with ProgressBar() as progress:
        if options.node:
            from omniad_ros.ros.bench import NodeBenchOptions, bench_nodes, format_node_bench

            result = bench_nodes(options.site, NodeBenchOptions(frames=options.frames), progress)
        else:
            result = bench(options.site, BenchOptions(frames=options.frames), progress)
    print(format_node_bench(result) if options.node else format_bench(result))
    if options.json:
        write_json(options.json, result)
        print(f"Figures: {options.json}")


def run_doctor(options: argparse.Namespace) -> None:
    from omniad_ros.commands.doctor import examine, format_findings

    print(format_findings(examine()))


def _quieten() -> None:
    """Keep the libraries' own chatter off the user's screen."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


if __name__ == "__main__":
    sys.exit(main())
