"""Options that several subcommands share, and the kinds of values that tyro does not know by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Fixed, Suppress, UseAppendAction, arg, create_mutex_group
from tyro.constructors import PrimitiveConstructorSpec

from omniad_ros.core.feedback import OmniadError

if TYPE_CHECKING:
    from omniad_ros.building.build import BuildOptions
    from omniad_ros.living import PatrolStore
    from omniad_ros.recordings.bag import BagOptions

LARGEST = 2**31 - 1
"""The largest whole number that every library takes, for a seed as for a size."""


def unset(metavar: str) -> object:
    """An option without a default to be named in the help."""
    return arg(metavar=metavar, help_behavior_hint="")


Flag = Annotated[bool, arg(help_behavior_hint="")]


def at_least(least: int) -> PrimitiveConstructorSpec:
    """A whole number from ``least`` to LARGEST."""

    def read(words: list[str]) -> int:
        try:
            number = int(words[0])
        except ValueError:
            raise ValueError(f"'{words[0]}' is not a whole number") from None
        if not least <= number <= LARGEST:
            raise ValueError(f"{number} is out of range, {least} is the least")
        return number

    return PrimitiveConstructorSpec(1, "INT", read, lambda value: isinstance(value, int), lambda value: [str(value)])


def numbers(count: int) -> PrimitiveConstructorSpec:
    """So many numbers, or None."""

    def read(words: list[str]) -> tuple[float, ...]:
        try:
            return tuple(map(float, words))
        except ValueError:
            raise ValueError(f"'{' '.join(words)}' are not {count} numbers") from None

    return PrimitiveConstructorSpec(count, "N", read, lambda value: True, lambda value: [str(value)])


def positive(metavar: str) -> PrimitiveConstructorSpec:
    """A number above 0, or None."""

    def read(words: list[str]) -> float:
        try:
            number = float(words[0])
        except ValueError:
            raise ValueError(f"'{words[0]}' is not a number") from None
        if not 0 < number < float("inf"):
            raise ValueError(f"{words[0]} is out of range, must be more than 0")
        return number

    return PrimitiveConstructorSpec(1, metavar, read, lambda value: True, lambda value: [str(value)])


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """What every subcommand takes."""

    debug: Flag = False
    """Show the traceback of an error."""

    @property
    def goes_on(self) -> bool:
        """Whether the same command goes on where an interruption stopped it."""
        return False


@dataclass(frozen=True, kw_only=True)
class RecordingOptions:
    """Which topics of a bag are read, and where its camera is."""

    image: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="TOPIC")]] = ()
    """A bag's topic of the images; found by its type if not given. Of a patrol, several times for several cameras."""
    camera_info: Annotated[str | None, unset("TOPIC")] = None
    """A bag's topic of the calibration; found by its type if not given."""
    odom: Annotated[str | None, unset("TOPIC")] = None
    """A bag's topic of the odometry; found by its type if not given."""
    camera_xyz: Annotated[tuple[float, float, float] | None, numbers(3), unset("X Y Z")] = None
    """Place of the camera on the robot in metres, instead of what /tf_static says."""
    camera_rpy: Annotated[tuple[float, float, float] | None, numbers(3), unset("R P Y")] = None
    """Roll, pitch and yaw of its body (x forward, z up) in radians."""

    def bag_options(self) -> BagOptions:
        from omniad_ros.recordings.bag import BagOptions, mounted

        xyz, rpy = self.camera_xyz, self.camera_rpy
        mount = mounted(xyz or (0, 0, 0), rpy or (0, 0, 0)) if xyz or rpy else None
        image, rig = (self.image[0], ()) if len(self.image) == 1 else (None, self.image)
        return BagOptions(image, rig, self.camera_info, self.odom, mount)


@dataclass(frozen=True, kw_only=True)
class LookOptions:
    """How frames are looked at a second time."""

    detail_side: Annotated[int, at_least(0)] = 1280
    """Pixels of the longer side at which frames are looked at a second time, where they and the survey are as large; 0 for never."""
    whole_frame: Flag = False
    """Look a second time at the whole frame, at several times the cost, instead of where it pays."""


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where patrols are kept."""

    patrols: Annotated[str, arg(metavar="URL")] = ""
    """Database of the patrols, as SQLAlchemy names it (postgresql+psycopg://...); patrols.db beside the site if not given."""

    @contextlib.contextmanager
    def open(self, site: Path, begin: bool = False) -> Iterator[PatrolStore]:
        """The site's store. Raises OmniadError where nothing was ever kept of it, unless it is to ``begin``."""
        from omniad_ros.living import PatrolStore
        from omniad_ros.site import Site

        Site.open(site, verify=False)
        if not (begin or PatrolStore.exists(site, self.patrols)):
            raise OmniadError(f"no patrol of {site} was kept yet: 'omniad inspect' and the inspector node keep them")
        store = PatrolStore.of_site(site, self.patrols)
        try:
            yield store
        finally:
            store.close()


KNOWN_LENGTH = create_mutex_group(required=False, title="a known length")


@dataclass(frozen=True, kw_only=True)
class SiteOptions:
    """How a site is built."""

    field: Annotated[str | None, unset("METHOD")] = None
    """nerfstudio method of the radiance field: grid-field (default without a GPU), nerfacto (default with one), splatfacto, ..."""
    nerfstudio_run: Annotated[Path | None, unset("DIR")] = None
    """Take over the field of a finished nerfstudio run on these images; its files can run code, so only your own."""
    features: Annotated[str, arg(metavar="NAME")] = "sift"
    """Local features of the map: sift, aliked+lightglue, disk+lightglue or xfeat+lighterglue (pip install 'omniad-ros[features]'), aliked (where pycolmap can run it), or hloc/EXTRACTOR/MATCHER[/RETRIEVAL] by hloc's names, e.g. hloc/superpoint_max/superpoint+lightglue/netvlad."""
    baseline: Annotated[tuple[str, str, str] | None, unset("IMAGE IMAGE METRES"), KNOWN_LENGTH] = None
    """Distance between the cameras of two survey images, where no odometry gives the map its scale."""
    distance: Annotated[
        tuple[str, str, str, str, str, str, str] | None, unset("IMAGE U V IMAGE U V METRES"), KNOWN_LENGTH
    ] = None
    """The same between what two pixels of survey images show."""
    teacher: Annotated[str | None, unset("NAME")] = None
    """Backbone of the detector's teacher: resnext50_32x4d, wide_resnet50_2, resnet34, resnet18, dinov2_vits14 or dinov2_vitb14 (by timm), or compact, the bundled one (default: ImageNet weights where torch's cache has them, else compact)."""
    teacher_weights: Annotated[Path | None, unset("FILE")] = None
    """The teacher's weights (torchvision's .pth, or safetensors)."""
    single_look: Flag = False
    """Train for the working size alone, however large the photographs are."""
    plain: Flag = False
    """Reverse distillation as published: no attention, novel views or reference comparison."""
    longest_side: Annotated[int, at_least(64)] = 320
    """Pixels of the longest side at which field, detector and inspection work."""
    seed: Annotated[int, at_least(0)] = 0
    """Of everything random."""
    outside_images: Flag = False
    """Take images that lie outside the survey's folder (by .., an absolute path or a link) into the site."""

    def build_options(self, nerfstudio_options: Sequence[str]) -> BuildOptions:
        """Raises OmniadError where a known length is none."""
        from omniad_ros.building.build import BuildOptions
        from omniad_ros.reference import default_method

        run, weights = self.nerfstudio_run, self.teacher_weights
        detector = {"attention": False, "use_novel": False, "comparison": False} if self.plain else {}
        detector |= {"second_look": False} if self.single_look else {}
        detector |= {"backbone": self.teacher} if self.teacher else {}
        detector |= {"teacher_weights": str(weights.resolve())} if weights else {}
        return BuildOptions(
            field=self.field or default_method(),
            field_options=tuple(nerfstudio_options),
            longest_side=self.longest_side,
            detector=tuple(detector.items()),
            seed=self.seed,
            nerfstudio_run=str(run.resolve()) if run else "",
            features=self.features,
            distance=self._known_distance(),
            outside_images=self.outside_images,
        )

    def _known_distance(self) -> tuple | None:
        """(images, metres, pixels or None), as `BuildOptions.distance` wants it."""
        try:
            if self.baseline:
                first, second, metres = self.baseline
                return (first, second), float(metres), None
            if self.distance:
                first, u, v, second, x, y, metres = self.distance
                return (first, second), float(metres), ((float(u), float(v)), (float(x), float(y)))
        except ValueError:
            raise OmniadError("a known distance is given in metres and its places in pixels, as numbers") from None
        return None


NerfstudioOptions = Annotated[tuple[str, ...], Fixed, Suppress]
"""The words that are not omniad's own; `cli` puts them here."""

NERFSTUDIO_HELP = (
    "Further options are nerfstudio's own, as for ns-train (--max-num-iterations 5000 --pipeline.model.far-plane 50); "
    "give them last."
)
