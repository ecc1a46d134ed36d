"""Versions of a site: each is whole, the current one is what `site.json` says, and switching is one rename.

Version 1 is what was built. A later version N has in ``versions/N/`` the stages that differ, and the photographs that it brought;
the others stay where they were. ``versions/N/site.json`` is what site.json says while N is current, so a process that has an older
version open goes on with it, and nothing is copied to go back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import disk_errors, hashes, write_json
from omniad_ros.site import STAGES, VERSION, VERSIONS, Site

DRAFT = ".draft"


@dataclass(frozen=True)
class Version:
    """number: from 1 on; made: seconds since 1970, 0 of the one that was built; changes: a sentence; taken_in: ids of the accepted
    findings that are a part of what is normal in it; current: whether it is the one that is used."""

    number: int
    made: float
    changes: str
    taken_in: tuple[int, ...]
    current: bool


def history(site: Site) -> list[Version]:
    """All versions of a site, the oldest first. Raises OmniadError where what is noted of one is damaged."""
    current = site.manifest.get("number", 1)
    manifests = {number: _manifest(site, number) for number in _numbers(site)} | {current: site.manifest}
    return [
        Version(n, m.get("made", 0.0), m.get("changes", ""), tuple(m.get("taken_in", ())), n == current)
        for n, m in sorted(manifests.items())
    ]


@contextlib.contextmanager
def next_version(site: Site) -> Iterator[tuple[int, Path, dict]]:
    """(its number, the folder in which its stages and photographs are written, what is noted of it); it becomes the current one
    when the block ends well, and else nothing is changed.

    The notes are ``stages`` (what each stage's info adds), ``changes`` and ``taken_in``, to be filled by the block. Paths from one file
    of the folder to another hold: it is renamed as a whole, at the depth at which it is.
    """
    place = site.path / VERSIONS
    number = max([*_numbers(site), site.manifest.get("number", 1)]) + 1
    notes: dict = {"stages": {}, "changes": "", "taken_in": []}
    with disk_errors(site.path):
        work = place / DRAFT
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            yield number, work, notes
            name = f"{VERSIONS}/{number}"
            folders = site.manifest.get("folders", {}) | {s: f"{name}/{s}" for s in STAGES if (work / s).is_dir()}
            replaced = {site.folder(stage) for stage in folders if folders[stage] != site.folder(stage)}
            files = {
                k: v for k, v in site.manifest["files"].items() if not any(k.startswith(f"{r}/") for r in replaced)
            }
            stages = {s: info | notes["stages"].get(s, {}) for s, info in site.manifest["stages"].items()}
            manifest = {
                **site.manifest, "version": VERSION, "folders": folders, "files": files | hashes(work, name), "stages": stages,
                "number": number, "made": time.time(), "changes": notes["changes"],
                "taken_in": sorted({*site.manifest.get("taken_in", ()), *notes["taken_in"]}),
            }  # fmt: skip
            write_json(work / "site.json", manifest)
            _keep(site)
            work.rename(place / str(number))
            _switch(site, manifest)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def roll_back(site: Site, number: int) -> None:
    """Make a version the current one, in one step. Raises OmniadError where there is none, or a file of it is not as it was."""
    if number == site.manifest.get("number", 1):
        return
    if number not in _numbers(site):
        raise OmniadError(f"{site.path} has no version {number}; 'omniad history {site.path}' lists them")
    manifest = _manifest(site, number)
    Site(site.path, manifest).verify()
    _keep(site)
    _switch(site, manifest)


def forget(site: Site, number: int) -> None:
    """Remove what only one version has. Raises OmniadError where it is in use: current, the first, or a later one rests on it."""
    manifests = {n: _manifest(site, n) for n in _numbers(site)}
    current = site.manifest.get("number", 1)
    if number not in manifests or number in (1, current):
        raise OmniadError(
            f"version {number} of {site.path} cannot be removed: it is not there, the first, or the current one"
        )
    own = f"{VERSIONS}/{number}/"
    needed = {k for n, m in (manifests | {current: site.manifest}).items() if n != number for k in m["files"]}
    place = site.path / VERSIONS / str(number)
    with disk_errors(site.path):
        (place / "site.json").unlink()
        for file in [f for f in place.rglob("*") if f.is_file()]:
            if own + file.relative_to(place).as_posix() not in needed:
                file.unlink()
        for folder in sorted((f for f in place.rglob("*") if f.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # what others need stays
                folder.rmdir()
        with contextlib.suppress(OSError):
            place.rmdir()


def _numbers(site: Site) -> list[int]:
    """Of the versions of which it is noted what they are."""
    return sorted(int(f.parent.name) for f in (site.path / VERSIONS).glob("*/site.json") if f.parent.name.isdecimal())


def _manifest(site: Site, number: int) -> dict:
    return Site.read_manifest(site.path / VERSIONS / str(number) / "site.json", site.path)


def _keep(site: Site) -> None:
    """Note what the current version is, so that it can be gone back to."""
    kept = site.path / VERSIONS / str(site.manifest.get("number", 1)) / "site.json"
    kept.parent.mkdir(exist_ok=True)
    write_json(kept, site.manifest)


def _switch(site: Site, manifest: dict) -> None:
    """One rename: whoever opens the site has the one version or the other."""
    write_json(site.path / ".site.json", manifest)
    os.replace(site.path / ".site.json", site.path / "site.json")
    site.manifest = manifest
