"""What the managed nodes share: parameters, transitions with a reason, throttled warnings, diagnostics, a clean end.

A node starts itself unless a lifecycle manager is to do it (parameter ``autostart``). Where it cannot be configured it
stays unconfigured and /diagnostics says why, so that a manager, or a person, can mend it and try again.
"""

from __future__ import annotations

import faulthandler
import os
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from os.path import expanduser

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from omniad_ros.core.feedback import OmniadError
from omniad_ros.ros import messages
from omniad_ros.ros.parameters import declare
from omniad_ros.ros.shared_memory import make_room, owned, remove
from omniad_ros.ros.shared_work import SharedWork
from omniad_ros.ros.speakers import Speakers
from omniad_ros.site import Site

NAMESPACE = "/omniad"
OK, WARN, ERROR, STALE = range(4)
INSTANCE = "instance"
"""What tells a node's process from others of its name, in /diagnostics."""

SENSOR = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""For images: only the newest counts."""
STREAM = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
"""For odometry: small, fast, every sample counts."""
OUTPUT = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
"""What a slow network lost is still there when it is asked for again, a heartbeat (3 s) later."""
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)  # fmt: skip

STEADY = Clock(clock_type=ClockType.STEADY_TIME)
"""For time-outs and diagnostics, which must go on when simulated time stands still."""


@dataclass(frozen=True)
class Health:
    """What /diagnostics says of a node now."""

    level: int
    message: str
    values: dict

    def doubted(self, why: str) -> Health:
        """The same, but not in order; what was wrong already is still said."""
        values = {**self.values, "state": "degraded", "why": why} if self.values.get("state") == "ok" else self.values
        return replace(self, level=max(self.level, WARN), message=self.message if self.level else why, values=values)


class ManagedNode(LifecycleNode):
    """A lifecycle node whose hooks (`configure`, `activate`, `deactivate`, `cleanup`) may raise OmniadError.

    values: an instance of the dataclass of parameters with its defaults; `self.values` holds those in effect.
    """

    WARN_EVERY = 10.0
    DIAGNOSTICS_EVERY = 0.5

    def __init__(self, name: str, values):
        super().__init__(name, namespace=NAMESPACE)
        self._warned: dict[str, tuple[float, int]] = {}
        self._trouble = ""
        self.state = "unconfigured"
        self.values = declare(self, values, self.check, self._set_values)
        self._instance, self._namesakes = secrets.token_hex(4), Speakers()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", OUTPUT)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._hear, STREAM)
        self.create_timer(self.DIAGNOSTICS_EVERY, self.publish_health, clock=STEADY)
        self._reloading = SharedWork(self, "~/reload", self._reload)
        self._starter = self.create_timer(0.01, self._start, clock=STEADY) if self.values.autostart else None

    # hooks of the nodes

    def configure(self) -> None:
        """Load what is needed and create publishers. OmniadError: stay unconfigured."""

    def activate(self) -> None:
        """Create subscriptions and begin to work."""

    def deactivate(self) -> None:
        """Undo `activate`. Must not fail."""

    def cleanup(self) -> None:
        """Undo `configure`. Must not fail, also after half of it."""

    def check(self, values) -> None:
        """Run-time parameters are to be set. OmniadError: refuse them. Must change nothing."""

    def changed(self, values) -> None:
        """Run-time parameters were set."""

    def health(self) -> Health:
        """What /diagnostics says while the node is active."""
        return Health(OK, "", {})

    def heard(self, hardware: str, values: dict) -> None:
        """What some node says of itself in /diagnostics; hardware: its full name, where it is one of ours."""

    def doubt(self) -> str:
        """One sentence where what the node says cannot be relied on though its own work is in order; else empty."""
        if self._namesakes.several:
            return f"more than one {self.get_name()} runs in {self.get_namespace()}; end all but one"
        return ""

    @property
    def unanswered(self) -> int:
        """Calls of services that are still to be answered."""
        return self._reloading.unanswered

    # transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = self._attempt(self.configure, "configure")
        if result != TransitionCallbackReturn.SUCCESS:
            self.cleanup()
            return result
        self.state = "inactive"
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        super().on_activate(state)
        result = self._attempt(self.activate, "activate")
        if result != TransitionCallbackReturn.SUCCESS:
            self.deactivate()
            super().on_deactivate(state)
            return result
        self.state = "active"
        self.get_logger().info("active")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.deactivate()
        self.state = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.cleanup()
        self.state = "unconfigured"
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.end()
        return super().on_shutdown(state)

    def _attempt(self, hook: Callable[[], None], name: str) -> TransitionCallbackReturn:
        try:
            hook()
        except OmniadError as error:
            self._trouble = str(error)
        except Exception as error:
            self._trouble = f"unexpected {type(error).__name__}: {error}"
            self.get_logger().error("".join(traceback.format_exception(error)))
        else:
            self._trouble = ""
            return TransitionCallbackReturn.SUCCESS
        self.get_logger().error(f"cannot {name}: {self._trouble}")
        return TransitionCallbackReturn.FAILURE

    def _reload(self) -> str:
        """~/reload: the site anew, as it lies in its folder now, or another one; on the executor's thread, as all transitions are."""
        Site.open(expanduser(self.values.site))  # what cannot be used must not end what works
        if self.state not in ("inactive", "active"):
            raise OmniadError(f"the {self.get_name()} is {self.state}: there is nothing to be loaded again")
        done = threading.Event()
        self.executor.create_task(self._load_again, self.state == "active", done)
        done.wait()
        if self._trouble:
            raise OmniadError(self._trouble)
        return f"{self.values.site} is loaded"

    def _load_again(self, active: bool, done: threading.Event) -> None:
        steps = [self.trigger_deactivate] if active else []
        steps += [self.trigger_cleanup, self.trigger_configure] + ([self.trigger_activate] if active else [])
        try:
            for step in steps:
                if step() != TransitionCallbackReturn.SUCCESS:
                    break
        finally:
            done.set()

    def _start(self) -> None:
        self.destroy_timer(self._starter)
        if self.state == "unconfigured" and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def end(self) -> None:
        """Leave whatever state the node is in; nothing may be used afterwards."""
        if self.state == "active":
            self.deactivate()
        if self.state in ("active", "inactive"):
            self.cleanup()
        self.state = "finalized"

    # parameters, warnings, diagnostics

    def _set_values(self, values) -> None:
        self.values = values
        self.changed(values)

    def warn(self, kind: str, text: str) -> None:
        """Log a warning; more of the same kind within `WARN_EVERY` seconds are only counted."""
        now = time.monotonic()
        last, unsaid = self._warned.get(kind, (-1e9, 0))
        if now - last < self.WARN_EVERY:
            self._warned[kind] = last, unsaid + 1
            return
        self._warned[kind] = now, 0
        self.get_logger().warning(text + (f" ({unsaid} more since the last warning)" if unsaid else ""))

    def destroy_all(self, *entities) -> None:
        """Destroy publishers, subscriptions and timers, and what holds some; None among them is skipped."""
        for entity in entities:
            if entity is None:
                continue
            for destroy in (self.destroy_lifecycle_publisher, self.destroy_subscription, self.destroy_timer):
                if destroy(entity):
                    break
            else:
                entity.destroy()

    def _hear(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if status.hardware_id == self.get_fully_qualified_name() and INSTANCE in values:
                self._namesakes.heard(values[INSTANCE])
            self.heard(status.hardware_id, values)

    def publish_health(self) -> None:
        """Say on /diagnostics how the node is; done regularly, and by the node when something new is to be said."""
        if self.state == "active":
            health = self.health()
            if doubt := self.doubt():
                health = health.doubted(doubt)
        elif self._trouble:
            health = Health(ERROR, f"not configured: {self._trouble}", {})
        else:
            health = Health(OK, self.state, {})
        values = {"lifecycle": self.state, INSTANCE: self._instance, **health.values}
        name = f"{self.get_namespace().strip('/')}: {self.get_name()}".lstrip(": ")
        status = messages.status_message(name, self.get_fully_qualified_name(), health.level, health.message, values)
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


class _Ending:
    """SIGINT and SIGTERM ask the node to end; the context stays valid until it has, so nothing fails half-way.

    They may come more than once: a terminal and a launcher both send them. A node that is not configured yet leaves at the
    second: loading a site takes longer than a launcher waits, and there is nothing to be saved.
    """

    def __init__(self, executor: SingleThreadedExecutor):
        self.asked = False
        self.node: Node | None = None
        self._executor = executor
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number, stack) -> None:
        if self.asked and (self.node is None or getattr(self.node, "state", "") == "unconfigured"):
            remove(owned(os.getpid()))  # what DDS would have done
            os._exit(0)
        self.asked = True
        self._executor.wake()


def _answer_all(node: ManagedNode, executor: SingleThreadedExecutor, seconds: float = 10.0) -> None:
    """Let who called a service before the end have the answer."""
    if not node.unanswered:
        return
    end = time.monotonic() + seconds
    while node.unanswered and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)
    time.sleep(0.2)  # until DDS has sent them


def main(make: Callable[[], Node]) -> int:
    """Run a node until SIGINT, SIGTERM, or until it sets its attribute ``finished``; returns the exit status."""
    faulthandler.enable()
    node = None
    make_room()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        executor = SingleThreadedExecutor()
        ending = _Ending(executor)
        node = ending.node = make()
        executor.add_node(node)
        while not ending.asked and not getattr(node, "finished", False):
            try:
                executor.spin_once(timeout_sec=0.5)
            except Exception as error:  # a message that cannot even be read raises in the executor
                text = f"ignored in a callback: {type(error).__name__}: {error}"
                node.get_logger().error(text, throttle_duration_sec=10.0)
                node.get_logger().debug("".join(traceback.format_exception(error)))
    except OmniadError as error:
        print(f"{make.__name__}: {error}", file=sys.stderr)
        return 1
    finally:
        if isinstance(node, ManagedNode):
            node.end()
            _answer_all(node, executor)
        rclpy.try_shutdown()
    return 0
