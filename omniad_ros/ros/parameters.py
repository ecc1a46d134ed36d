"""Parameters of a node from one dataclass: declared in one loop, with descriptions, ranges and read-only marks.

A field is made by `parameter`; those with ``runtime=True`` may be changed while the node is active, all others are
read-only. Wrong values are refused with a reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from omniad_ros.core.feedback import OmniadError

T = TypeVar("T")
SITE = "Folder of the site, as built by 'omniad build'; another one is taken at ~/reload."


def parameter(default, description: str, minimum=None, maximum=None, runtime: bool = False, length: int | None = None):
    """A dataclass field that is a ROS parameter.

    minimum, maximum: range of a number; runtime: may be changed while the node is active; length: of an array.
    """
    metadata = {
        "description": description,
        "minimum": minimum,
        "maximum": maximum,
        "runtime": runtime,
        "length": length,
    }
    return dataclasses.field(default=default, metadata=metadata)


def declare(
    node: Node, values: T, check: Callable[[T], None] = lambda values: None,
    changed: Callable[[T], None] = lambda values: None, prefix: str = "",
) -> T:  # fmt: skip
    """Declare every field of the dataclass instance ``values`` (its defaults) on the node; returns the values in effect.

    prefix: before the names of the parameters.

    check: called with the values that are asked for, may raise OmniadError to refuse them and must change nothing;
    changed: called with those that were accepted. What is set together is accepted or refused together.
    Raises OmniadError where a value given at the start has the wrong type or is out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(values)}
    for name, field in fields.items():
        try:
            default = getattr(values, name)
            default = list(default) if field.metadata["length"] else default
            given = node.declare_parameter(prefix + name, default, _descriptor(field)).value
        except InvalidParameterTypeException as error:
            raise OmniadError(f"parameter {prefix}{name} has the wrong type: {error}") from None
        except InvalidParameterValueException as error:
            raise OmniadError(f"parameter {prefix}{name} is refused: {error}") from None
        values = dataclasses.replace(values, **{name: tuple(given) if field.metadata["length"] else given})
        if reason := _refusal(field, given):
            raise OmniadError(reason)

    def own(parameters) -> dict:
        return {p.name.removeprefix(prefix): p.value for p in parameters if p.name.removeprefix(prefix) in fields}

    def candidate(parameters) -> T:
        return dataclasses.replace(values, **own(parameters))

    def validate(parameters) -> SetParametersResult:
        for name, value in own(parameters).items():
            if reason := _refusal(fields[name], value):
                return SetParametersResult(successful=False, reason=reason)
        try:
            check(candidate(parameters))
        except OmniadError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def apply(parameters) -> None:
        nonlocal values
        values = candidate(parameters)
        changed(values)

    node.add_on_set_parameters_callback(validate)
    node.add_post_set_parameters_callback(apply)
    return values


def _descriptor(field: dataclasses.Field) -> ParameterDescriptor:
    about = field.metadata
    descriptor = ParameterDescriptor(description=about["description"], read_only=not about["runtime"])
    if about["minimum"] is None or about["length"]:
        return descriptor
    if isinstance(field.default, float):
        limits = FloatingPointRange(from_value=float(about["minimum"]), to_value=float(about["maximum"]))
        descriptor.floating_point_range = [limits]
    else:
        descriptor.integer_range = [IntegerRange(from_value=about["minimum"], to_value=about["maximum"], step=1)]
    return descriptor


def _refusal(field: dataclasses.Field, value) -> str:
    """Why a value is refused for what rclpy itself does not check; empty where it is fine."""
    numbers = value if field.metadata["length"] else [value]
    if field.metadata["length"] and len(value) != field.metadata["length"]:
        return f"parameter {field.name} has {len(value)} elements, it needs {field.metadata['length']}"
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        return f"parameter {field.name} must be finite"
    return ""
