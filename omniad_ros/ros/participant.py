"""A plain ROS node of this process, on the domain that the processes it watches are on: listeners, the viewer, the bench."""

from __future__ import annotations

import os
from collections.abc import Mapping

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from omniad_ros.ros.managed import NAMESPACE


class Participant:
    """Spin it from one thread, and close it. environment: variables in which DDS is opened (`processes.private_environment`)."""

    def __init__(self, name: str, environment: Mapping[str, str], namespace: str = NAMESPACE):
        before = {key: os.environ.get(key) for key in environment}
        os.environ.update(environment)  # DDS reads them when the context begins
        try:
            self.context = Context()
            rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
            self.node = rclpy.create_node(name, namespace=namespace, context=self.context)
        finally:
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def spin(self, seconds: float) -> None:
        """Take at most one message; wait for it no longer than this."""
        self.executor.spin_once(timeout_sec=seconds)

    def close(self) -> None:
        self.executor.shutdown(timeout_sec=1.0)
        self.context.try_shutdown()
