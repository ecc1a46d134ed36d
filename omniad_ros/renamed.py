"""Module names of version 0.1, which still import until 0.3: the module that took their place, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

RENAMED = {
    "adapting": "building.adapt",
    "demo": "commands.demo",
    "doctor": "commands.doctor",
    "evidence": "patrol.evidence",
    "feedback": "core.feedback",
    "framecheck": "patrol.frame_check",
    "geometry": "core.geometry",
    "inspection": "patrol.pipeline",
    "nodes": "ros",
    "nodes.messages": "recordings.messages",
    "odometry": "patrol.odometry",
    "report.offline": "report.recorded",
    "rendering": "reference",
    "sightings": "patrol.sightings",
    "sim": "lab",
    "survey": "recordings",
    "survey.pictures": "core.images",
    "terminal": "commands.terminal",
    "tracking": "patrol.tracks",
}
"""Within the package; modules of a renamed package follow it."""


def new_name(name: str) -> str | None:
    """The full name of the module that was once called ``name``, None where it was never renamed."""
    package, _, old = name.partition(".")
    if package != __package__ or not old:
        return None
    parent, _, rest = old.partition(".")
    found = RENAMED.get(old) or (RENAMED.get(parent) and f"{RENAMED[parent]}.{rest}")
    return found and f"{package}.{found}"


class RenamedModules(MetaPathFinder, Loader):
    """Comes after the ordinary finders: what still exists under its name is never looked for here."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if new_name(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = new_name(spec.name)
        warnings.warn(f"{spec.name} is called {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        if any(old.startswith(f"{spec.name.partition('.')[2]}.") for old in RENAMED):
            return _scattered(spec.name, module)
        self._own = module.__spec__  # the import system is about to write the old name over it
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ != module.__spec__.name:
            module.__spec__ = self._own


def _scattered(name: str, package: ModuleType) -> ModuleType:
    """A package whose modules went to several places: those that did not follow ``package`` are found one by one."""

    def attribute(member: str):
        if f"{name}.{member}".partition(".")[2] in RENAMED:
            return importlib.import_module(f"{name}.{member}")
        return getattr(package, member)

    facade = ModuleType(name, package.__doc__)
    facade.__path__, facade.__getattr__ = [], attribute
    return facade


def install() -> None:
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.append(RenamedModules())
