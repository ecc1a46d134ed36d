"""Python programs that are started from here, and this one: none takes code from the folder that one stands in.

That may be a site or a survey that was downloaded, with a numpy.py in it; Python looks there first for ``-c`` and ``-m``, and for
an empty entry of PYTHONPATH. What stands here runs before anything else is imported, so it imports what every Python has loaded.
"""

import os
import sys

PACKAGES = os.path.abspath(os.path.join(os.path.dirname(__file__), os.pardir, os.pardir))
"""The folder in which this package lies."""
CALL = (
    "import sys; sys.path[:] = filter(None, sys.path); from importlib import import_module; "
    "sys.exit(getattr(import_module(sys.argv.pop(1)), sys.argv.pop(1))())"
)
"""For ``-c``, which puts the present folder before all packages where Python is 3.10 and knows no PYTHONSAFEPATH."""

UNREAD = {
    "NUMBA_CACHE_DIR": "", "NUMBA_CACHE_LOCATOR_CLASSES": "",
    "SKIP_DEFAULT_XML_FILE": "1", "SKIP_DEFAULT_XML": "1",
}  # fmt: skip
"""Environment variables that keep libraries from files of the present folder: numba's .numba_config.yaml, which may say where pickled
code lies, and the DEFAULT_FASTDDS_PROFILES.xml of Fast DDS 3, DEFAULT_FASTRTPS_PROFILES.xml of 2. What the user has set holds."""

LIBRARY = "libcuda.so.1"
"""torch comes with a libcusparseLt whose search path has an empty entry: that loads it from the present folder."""
LIBRARY_FOLDERS = ("tls", "haswell", "avx512_1", "x86_64", "glibc-hwcaps")
"""Where the loader of shared libraries looks for it besides."""


def own_environment() -> dict[str, str]:
    """The environment variables that a Python started from here has of its own."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [PACKAGES, *(entry for entry in inherited if not _is_present_folder(entry))]
    own = {name: os.environ.get(name, value) for name, value in UNREAD.items()}
    return {**own, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)), "PYTHONSAFEPATH": "1"}


def environment() -> dict[str, str]:
    """All of them: this process's, and `own_environment`."""
    return {**os.environ, **own_environment()}


def command(module: str, function: str, *arguments: str) -> list[str]:
    """The command that calls a module's function, with ``arguments`` as sys.argv[1:] and what it returns as the exit status."""
    return [sys.executable, "-c", CALL, module, function, *arguments]


def forget_present_folder() -> None:
    """Take no code from the present folder from now on, in this process and in those that a library starts from it.

    Only what names it as "wherever one stands" is forgotten; where PYTHONPATH says it in full, or this package lies in it, it stays.
    """
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = {PACKAGES, *filter(os.path.isabs, named)}
    here = {""} if not any(map(_is_present_folder, named)) else {"", os.getcwd()}
    sys.path[:] = [entry for entry in sys.path if entry not in here or entry in kept]
    os.environ.update({name: value for name, value in own_environment().items() if name != "PYTHONPATH"})
    if "PYTHONPATH" in os.environ:
        os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in named if not _is_present_folder(entry))


def check_present_folder() -> None:
    """Raises OmniadError where a shared library lies there that nobody could keep torch from running."""
    found = [LIBRARY] if os.path.lexists(LIBRARY) else []
    for folder in LIBRARY_FOLDERS:
        found += [os.path.join(where, LIBRARY) for where, _, files in os.walk(folder) if LIBRARY in files]
    if found:
        from omniad_ros.core.feedback import OmniadError

        raise OmniadError(f"{os.path.abspath(found[0])} would be run by torch; start from another folder, or delete it")


def _is_present_folder(entry: str) -> bool:
    return os.path.normpath(entry or os.curdir) == os.curdir
