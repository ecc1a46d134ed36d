"""Feature sources by name, as the operator gives it, and by description, as a map holds it."""

from __future__ import annotations

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import decode_json
from omniad_ros.mapping.aliked import AlikedOptions, AlikedSource
from omniad_ros.mapping.features import Description, FeatureSource
from omniad_ros.mapping.hloc import HlocOptions, HlocSource
from omniad_ros.mapping.learned import NAMES, LearnedOptions, LearnedSource
from omniad_ros.mapping.sift import SiftOptions, SiftSource

EXAMPLE = "hloc/superpoint_max/superpoint+lightglue/netvlad"
KINDS = {
    "sift": (SiftSource, SiftOptions), "aliked": (AlikedSource, AlikedOptions), "learned": (LearnedSource, LearnedOptions),
    "hloc": (HlocSource, HlocOptions),
}  # fmt: skip


def named_source(name: str) -> FeatureSource:
    """A feature source by name: ``sift``, ``aliked``, one of `NAMES`, or ``hloc/EXTRACTOR/MATCHER[/RETRIEVAL]`` by hloc's configuration names.

    Raises OmniadError where the name is unknown or what it needs is not installed.
    """
    if name in NAMES:
        return LearnedSource(LearnedOptions(name))
    kind, *rest = name.split("/")
    if (kind in ("sift", "aliked") and not rest) or (kind == "hloc" and len(rest) in (2, 3)):
        source, options = KINDS[kind]
        return source(options(*rest))
    raise OmniadError(
        f"there are no features named '{name}': give 'sift', 'aliked', {', '.join(map(repr, NAMES))} or "
        f"'hloc/EXTRACTOR/MATCHER[/RETRIEVAL]', e.g. {EXAMPLE}"
    )


def open_source(description: Description) -> FeatureSource:
    """The feature source that a map was built with. Raises OmniadError where it is unknown or not installed."""
    if description.features not in KINDS:
        raise OmniadError(
            f"the map was built with features of an unknown kind, '{description.features}'; update omniad_ros"
        )
    source, options = KINDS[description.features]
    return source(decode_json(description.options, f"the map's options of {description.features}", options))
