"""`omniad update`: accepted changes become a part of what is normal, as recorded patrols show them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from omniad_ros.commands.options import CommandOptions, Flag, RecordingOptions, StoreOptions
from omniad_ros.commands.terminal import ProgressBar, show


@dataclass(frozen=True, kw_only=True)
class UpdateCommand(CommandOptions):
    """Options of `omniad update`."""

    site: Positional[Annotated[Path, arg(metavar="SITE")]]
    """Folder of the site."""
    recordings: Positional[Annotated[tuple[Path, ...], arg(metavar="[PATROL...]")]] = ()
    """rosbag2, video, or folder of images of patrols in which the accepted changes are there; what was kept of the latest patrol if not given."""
    light: Flag = False
    """Draw references from what is normal in the patrol everywhere, as it looks now; what is too faint to be raised gets in with it."""
    store: OmitArgPrefixes[StoreOptions]
    bag: OmitArgPrefixes[RecordingOptions]


def run(options: UpdateCommand) -> None:
    from omniad_ros.core.feedback import part
    from omniad_ros.living.updating import update_site
    from omniad_ros.recordings import open_frames
    from omniad_ros.site import Site

    with options.store.open(options.site) as store, ProgressBar() as progress:
        site = Site.open(options.site)
        reading, camera = part(progress, 0.0, 0.05), site.mapped.camera
        sources = [
            open_frames(path, options.bag.bag_options(), reading).taken_by(camera) for path in options.recordings
        ]
        update = update_site(site, store, sources, part(progress, 0.05, 1.0), options.light)
    if update.unseen:
        show(f"not taken in, for the patrols do not show it well enough: {', '.join(update.unseen)}")
    normal = f", in which {', '.join(update.taken_in)} is normal" if update.taken_in else ""
    show(f"{options.site} is at version {update.version}{normal}; running nodes take it on ~/reload")
