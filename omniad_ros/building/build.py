"""Survey → site: runs the stages one after the other and hands each what the earlier ones made.

A stage that is already whole is not run again, so an interrupted build goes on where it stopped.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from omniad_ros.core.feedback import NoSpaceError, OmniadError, Progress, part, quiet, short_of_memory
from omniad_ros.core.files import as_type, check_empty, exclusive
from omniad_ros.core.geometry import Pose
from omniad_ros.core.images import resized
from omniad_ros.detection import LEAST_HELDOUT, LEAST_TRAINED, NormalViews
from omniad_ros.site import Site

MOST_TRAINED, MOST_HELDOUT = 200, 40
"""Views that a detector learns from and is calibrated on: a larger survey does not cost more."""
SPACE_FACTOR, SPACE_EXTRA = 2.0, 300e6
"""Free disk needed: a multiple of the survey's bytes, and a rest for map, field and detector."""

logger = logging.getLogger(__name__)


class _RadianceInfo(msgspec.Struct):
    """Of what is noted about a field, what its detector needs: the names of the images that it did not see."""

    heldout: list[str]


@dataclass(frozen=True)
class BuildOptions:
    """How a site is built.

    field: nerfstudio method of the radiance field; field_options: its nerfstudio options; longest_side: pixels at which
    field, detector and inspection work; holdout: one of how many mapped images the field does not see, so
    that the detector meets honest renderings; novel_views: how many INV views are synthesised; detector: (name, value) changes to
    `DetectorOptions`; seed: of everything random; nerfstudio_run: directory of a finished nerfstudio run on the survey's
    images, whose field is taken over instead of training one (its config.yml and checkpoint can run code: only your own);
    features: of the map, by name (`mapping.named_source`); distance: fields of `mapping.KnownDistance`, pixels in the survey's
    images as they were given, for a length that makes the map metric; None to trust the survey's poses; outside_images: take
    images that lie outside the survey's folder into the site, which may be handed on.
    """

    field: str = "grid-field"
    field_options: tuple[str, ...] = ()
    longest_side: int = 320
    holdout: int = 6
    novel_views: int = 60
    detector: tuple[tuple[str, object], ...] = ()
    seed: int = 0
    nerfstudio_run: str = ""
    features: str = "sift"
    distance: tuple | None = None
    outside_images: bool = False


def build_site(
    survey: Path | str, out: Path | str, options: BuildOptions | None = None, progress: Progress = quiet
) -> Site:
    """Build the site of a survey (a folder, a transforms.json or a video) into ``out``, or go on building it.

    Raises OmniadError with one sentence where the survey cannot become a site; a folder that this call made is then
    removed again. A full disk (NoSpaceError) and short memory leave the finished stages, and the same call goes on with them.
    """
    from omniad_ros.recordings import fingerprint, read_survey

    options, out = options or BuildOptions(), Path(out)
    if not (out / "site.json").is_file():
        check_empty(out)
    progress(0.0, "reading the survey")
    _check_field(options)
    _check_teacher(options)
    source = read_survey(Path(survey))
    if not options.outside_images:
        check_inside(source, Path(survey))
    _check_count(len(source), options, f"the survey {survey} has only {len(source)} images")
    map_options = _map_options(source, options)
    decisive = {name: value for name, value in asdict(options).items() if name != "outside_images"}
    identity = f"{fingerprint(source)} {sorted(decisive.items())}"
    existed, started_here = out.exists(), not (out / "site.json").is_file()
    if started_here:
        _check_space(Path(survey), out)
    site = Site.create(out, identity, options.longest_side)
    with exclusive(out):
        site = Site.create(out, identity, options.longest_side)  # as it is now that nobody else works on it
        try:
            _survey_stage(site, source, part(progress, 0.0, 0.05))
            _map_stage(site, map_options, part(progress, 0.05, 0.25))
            mapped = len(site.mapped)
            _check_count(
                mapped, options, f"only {mapped} of the survey's {len(source)} images could be placed in the map"
            )
            _radiance_stage(site, options, part(progress, 0.25, 0.65))
            _detector_stage(site, options, part(progress, 0.65, 1.0))
        except NoSpaceError:
            raise  # the finished stages stay: the same call goes on
        except OmniadError as error:
            if started_here and not short_of_memory(error):  # as where the disk is full, the same call goes on
                _remove(out, keep_folder=existed)
            raise
    progress(1.0, "the site is built")
    return site


def _survey_stage(site: Site, source, progress: Progress) -> None:
    from omniad_ros.recordings import write_survey

    if site.has("survey"):
        return
    info: dict = {}
    with site.stage("survey", info) as work:
        images = write_survey(source, work, progress)
        odometry = any(pose is not None for pose in images.poses)
        info |= {"images": len(images), "odometry": odometry, "camera_from": source.camera_from}


def _map_options(source, options: BuildOptions):
    """How the map is to be made; what cannot be is refused before anything is written."""
    from omniad_ros.mapping import KnownDistance, MapOptions, check_distance, named_source
    from omniad_ros.recordings import written_pixel

    distance = None
    if options.distance is not None:
        images, metres, pixels = options.distance
        distance = KnownDistance(images, metres, pixels and tuple(written_pixel(source, pixel) for pixel in pixels))
        check_distance(distance, source.names)
    return MapOptions(named_source(options.features), refine_focal=source.camera_from != "file", distance=distance)


def _map_stage(site: Site, options, progress: Progress) -> None:
    from omniad_ros.mapping import build_map

    if site.has("map"):
        return
    info: dict = {}
    with site.stage("map", info) as work, _timed(info):
        info |= build_map(site.survey, work, progress, options)
    if info["scale"] == "unknown" and not any(site.survey.poses):  # of poses that do not fit the map has said so itself
        logger.warning(
            "the survey has no poses that give the map a metric scale: it is right up to scale (--baseline or --distance can give it one)"
        )


def _radiance_stage(site: Site, options: BuildOptions, progress: Progress) -> None:
    from omniad_ros.reference import import_field, train_field

    if site.has("radiance"):
        return
    images, info = site.mapped, {}
    train, heldout = split(len(images), options.holdout)
    with site.stage("radiance", info) as work, _timed(info):
        if options.nerfstudio_run:
            info |= import_field(images, Path(options.nerfstudio_run), work, progress, site.longest_side)
        else:
            method, side = options.field, site.longest_side
            changes = ("--machine.seed", str(options.seed), *options.field_options)
            info |= train_field(images, site.sparse_points, train, work, method, changes, progress, side)
        # an imported run that held nothing out still leaves the detector something to be calibrated on
        info["heldout"] = info.get("heldout") or [images.names[i] for i in heldout]


def _detector_stage(site: Site, options: BuildOptions, progress: Progress) -> None:
    from omniad_ros.detection import DetectorOptions, train_detector

    if site.has("detector"):
        return
    info: dict = {}
    with site.stage("detector", info) as work, _timed(info):
        normal = normal_views(site, options.novel_views, options.seed, part(progress, 0.0, 0.25))
        chosen = {"seed": options.seed, "longest_side": site.longest_side, **dict(options.detector)}
        info |= train_detector(normal, work, DetectorOptions(**chosen), part(progress, 0.25, 1.0))


def normal_views(site: Site, novel_views: int, seed: int, progress: Progress = quiet) -> NormalViews:
    """What a detector learns from: a mapped site's survey views beside the field's renderings, at most MOST_TRAINED that the field
    was trained on and MOST_HELDOUT others, evenly chosen; and its novel views."""
    from omniad_ros.detection import NormalView
    from omniad_ros.reference import ReferenceView, load_field, novel_poses
    from omniad_ros.reference.full_size import FullSize
    from omniad_ros.reference.photographs import chosen

    images, radiance = site.mapped, load_field(site.radiance_dir)
    camera = site.working_camera(images.camera)
    held = np.isin(images.names, as_type(site.info("radiance"), str(site.path / "site.json"), _RadianceInfo).heldout)
    groups = (np.flatnonzero(~held), MOST_TRAINED), (np.flatnonzero(held), MOST_HELDOUT)
    taken = np.sort(np.concatenate([group[chosen(len(group), most)] for group, most in groups]))
    poses = novel_poses(images, novel_views, seed)
    trained, heldout, total = [], [], len(taken) + len(poses)
    for done, index in enumerate(taken):
        progress(done / total, "rendering views of the normal site")
        rendering = radiance.render(camera, images.poses[index])
        image = resized(images.image(index), camera.width, camera.height)
        view = NormalView(image, ReferenceView(rendering.image, rendering.depth), images.poses[index], int(index))
        (heldout if held[index] else trained).append(view)
    novel = []
    for done, pose in enumerate(poses, len(taken)):
        progress(done / total, "rendering novel views of the normal site")
        novel.append(radiance.render(camera, pose).image)
    return NormalViews(trained, heldout, novel, camera, FullSize.of_site(site))


def adapt_site(site: Site, poses: list[Pose], progress: Progress = quiet) -> dict:
    """Adapt a site's detector to the poses of the images to be inspected (QANV); the detector is replaced as a whole."""
    info: dict = dict(site.info("detector"))
    with exclusive(site.path), site.stage("detector", info) as work, _timed(info):
        info |= adapt_into(site, poses, work, progress)
    return info


def adapt_into(site: Site, poses: list[Pose], out: Path, progress: Progress = quiet) -> dict:
    """Write the site's detector, adapted to these poses, into ``out``; the site stays as it is."""
    from omniad_ros.detection import Detector, adapt_detector
    from omniad_ros.reference import ReferenceRenderer

    detector, renderer = Detector.load(site.detector_dir), ReferenceRenderer.of_site(site)
    normal = normal_views(site, BuildOptions.novel_views, detector.options.seed, part(progress, 0.0, 0.2))
    aligned = []
    for index, pose in enumerate(poses):
        progress(0.2 + 0.1 * index / len(poses), "rendering views at the poses of the images")
        aligned.append((renderer.field.render(normal.camera, pose), pose))
    drawing = part(progress, 0.3, 1.0)
    return adapt_detector(detector, normal, aligned, out, photographs=renderer.photographs, progress=drawing)


def split(count: int, holdout: int) -> tuple[list[int], list[int]]:
    """Indices of (training, held-out) images: every ``holdout``-th one, from the middle of its group, is held out."""
    heldout = [int(i) for i in np.arange(count) if i % holdout == holdout // 2]
    return [i for i in range(count) if i not in set(heldout)], heldout


def check_inside(source, survey: Path) -> None:
    """Raise OmniadError where a survey's images lie elsewhere, by ``..``, an absolute path or a link."""
    folder = (survey if survey.is_dir() else survey.parent).resolve()
    outside = next((file for file in source.files if not file.resolve().is_relative_to(folder)), None)
    if outside is not None:
        raise OmniadError(
            f"the survey {survey} takes the image {outside} from outside its folder; a site may be handed on with it, "
            "so copy it into the folder, give the folder that holds both, or ask for it with --outside-images"
        )


def _check_field(options: BuildOptions) -> None:
    """Whether there is such a field, before minutes are spent on the map."""
    from omniad_ros.reference import check_method

    if options.nerfstudio_run and not Path(options.nerfstudio_run).exists():
        raise OmniadError(f"{options.nerfstudio_run} does not exist; give the directory with nerfstudio's config.yml")
    if options.field_options or options.field != BuildOptions.field:
        check_method(options.field, options.field_options)


def _check_teacher(options: BuildOptions) -> None:
    """Whether the teacher that was asked for is at hand."""
    from omniad_ros.detection import DetectorOptions

    detector = DetectorOptions(**dict(options.detector))
    if detector.backbone != "auto" or detector.teacher_weights:
        from omniad_ros.detection.student import choose_backbone, load_teacher

        load_teacher(*choose_backbone(detector.backbone, detector.teacher_weights))


def _check_count(count: int, options: BuildOptions, complaint: str) -> None:
    """Raise OmniadError where so many images are too few for a site."""

    def enough(number: int) -> bool:
        trained, heldout = split(number, options.holdout)
        return len(trained) >= LEAST_TRAINED and len(heldout) >= LEAST_HELDOUT

    if not enough(count):
        least = next(number for number in range(count, 10000) if enough(number))
        raise OmniadError(f"{complaint}; a site needs at least {least}, and about 100 to be good")


class _timed:
    """Notes how many seconds the block took in ``info["seconds"]``."""

    def __init__(self, info: dict):
        self.info = info

    def __enter__(self):
        self.started = time.monotonic()

    def __exit__(self, *_):
        self.info["seconds"] = round(time.monotonic() - self.started, 1)


def _check_space(survey: Path, out: Path) -> None:
    folder = survey if survey.is_dir() else survey.parent
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if survey.is_dir() else survey.stat().st_size
    needed = SPACE_FACTOR * size + SPACE_EXTRA
    existing = next(parent for parent in [out.absolute(), *out.absolute().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OmniadError(
            f"no space: building into {out} needs about {needed / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB free"
        )


def _remove(out: Path, keep_folder: bool) -> None:
    if not keep_folder:
        shutil.rmtree(out, ignore_errors=True)
        return
    for entry in out.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
