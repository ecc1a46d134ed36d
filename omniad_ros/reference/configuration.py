"""nerfstudio's configuration of a method, with options set as on its own command line.

The options come from the user or from a site's field.json, so they reach values only: never which class is built, nor a
function. Hence each is found by its dotted name among the fields of the configuration and tyro reads its value by the field's
type; nerfstudio's own parser of the whole would also take the subcommands that choose classes.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import typing
from collections.abc import Iterator, Sequence

import msgspec

from omniad_ros.core.command_line import OptionError, parse
from omniad_ros.core.feedback import OmniadError
from omniad_ros.reference.trainer import silent_nerfstudio


def method_config(method: str, options: Sequence[str]):
    """nerfstudio's configuration of a method (or of an installed plug-in) with options set.

    options: words such as ``("--max-num-iterations", "2000", "--pipeline.model.grid-feature-dims=32")``; the last of a name
    holds. Raises OmniadError where there is no such method or option, or a value is none of the option's.
    """
    if method == "grid-field":
        from omniad_ros.reference.method import grid_field

        config = grid_field.config
    else:
        from nerfstudio.configs.method_configs import all_methods
        from nerfstudio.engine.trainer import TrainerConfig

        # among them are plug-ins that nerfstudio would offer to install
        installed = {name: config for name, config in all_methods.items() if isinstance(config, TrainerConfig)}
        if not isinstance(method, str) or method not in installed:
            raise OmniadError(f"nerfstudio has no method '{method}' here; it has {', '.join(sorted(installed))}")
        config = installed[method]
    config = copy.deepcopy(config)
    for name, words in _pairs(options):
        try:
            _set(config, name, words)
        except OptionError as error:
            raise OmniadError(f"nerfstudio's {method}: {error}") from None
    return config


def check_method(method: str, options: Sequence[str]) -> None:
    """Raise OmniadError where there is no such method or option, or it cannot be trained on this machine."""
    import torch

    with silent_nerfstudio():
        config = method_config(method, options)
    if config.max_num_iterations < 1:
        raise OmniadError(
            f"--max-num-iterations {config.max_num_iterations}: a field needs at least one step, and some thousands to be good"
        )
    if "splat" in method and not torch.cuda.is_available():
        raise OmniadError(f"'{method}' needs a CUDA GPU, and this machine has none; use --field grid-field")


def _pairs(options: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(name, the words of its value), from ``--name word ...`` and ``--name=word``."""
    if not isinstance(options, (list, tuple)) or not all(isinstance(word, str) for word in options):
        raise OmniadError("nerfstudio's options are a list of words")
    if options and not options[0].startswith("--"):
        raise OmniadError(f"nerfstudio's options come as '--name value', not '{options[0]}'")
    starts = [at for at, word in enumerate(options) if word.startswith("--")]
    for start, end in zip(starts, [*starts[1:], len(options)]):
        name, equals, first = options[start].partition("=")
        yield name, [*([first] if equals else []), *options[start + 1 : end]]


def _set(config, name: str, words: list[str]) -> None:
    *path, last = name.removeprefix("--").replace("-", "_").split(".")
    owner = config
    for part in path:
        owner = _entries(owner).get(part)
    entries = _entries(owner)
    if last not in entries:
        raise OptionError(f"there is no option {name}")
    value = _value(name, words, entries[last], _kind(owner, last, entries[last]))
    if dataclasses.is_dataclass(owner):
        setattr(owner, last, value)
    else:
        owner[int(last) if isinstance(owner, list) else last] = value


def _entries(owner) -> dict[str, object]:
    """What options may reach below ``owner``; a name that begins with an underscore says what class to build."""
    if isinstance(owner, dict):
        return {name: value for name, value in owner.items() if isinstance(name, str)}
    if isinstance(owner, list):
        return {str(at): value for at, value in enumerate(owner)}
    if not dataclasses.is_dataclass(owner) or isinstance(owner, type):
        return {}
    names = (field.name for field in dataclasses.fields(owner))
    return {name: getattr(owner, name) for name in names if not name.startswith("_")}


def _kind(owner, name: str, before: object):
    """The type of an option's value: as declared, else that of the value that is there."""
    declared = (
        typing.get_type_hints(type(owner)).get(name, typing.Any) if dataclasses.is_dataclass(owner) else typing.Any
    )
    return type(before) if declared is typing.Any else declared


def _value(name: str, words: list[str], before: object, kind) -> object:
    """The words as a value of ``kind``. Lists, objects, true, false and null may also be written as JSON, as sites do."""
    if dataclasses.is_dataclass(before) or callable(before):
        raise OptionError(f"{name} is nothing to be set; its own options are '{name}.…'")
    if not words:
        raise OptionError(f"{name} needs a value")
    if len(words) == 1 and not isinstance(before, str):
        with contextlib.suppress(ValueError, TypeError):  # no JSON, or not of this kind
            parsed = json.loads(words[0])
            if parsed is None or isinstance(parsed, (bool, list, dict)):
                return _plain(name, msgspec.convert(parsed, kind))
    setting = dataclasses.make_dataclass("Setting", [("value", kind)])
    try:
        read, further = parse(setting, [f"--value={words[0]}"] if len(words) == 1 else ["--value", *words])
    except OptionError as error:
        raise OptionError(str(error).replace("--value", name)) from None
    if further:
        raise OptionError(f"'{' '.join(words)}' is no value for {name}")
    return _plain(name, read.value)


def _plain(name: str, value: object) -> object:
    """The value, where it is neither a configuration of something to be built nor a function."""
    if dataclasses.is_dataclass(value) or callable(value):
        raise OptionError(f"{name} cannot be given")
    return value
