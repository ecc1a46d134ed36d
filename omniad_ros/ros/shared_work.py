"""A service whose work takes a while: done on a thread of its own, once for all who ask meanwhile, and each is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_srvs.srv import Trigger

from omniad_ros.core.feedback import OmniadError

MANY = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=ReliabilityPolicy.RELIABLE)
"""Calls that wait to be taken: with the usual 10, of a hundred at once most are lost."""


class SharedWork:
    """The service ``name`` of a node, for as long as that lives. Who calls while the work runs shares its next run with all who do.

    work: returns what is answered; OmniadError and OSError are answered as a refusal.
    """

    def __init__(self, node: Node, name: str, work: Callable[[], str]):
        self._node, self._work = node, work
        self._lock = threading.Lock()
        self._asking: list[Future] = []
        self._running = False
        self.unanswered = 0
        """Calls that were taken and not answered yet; changes on the executor's thread only."""
        # a call that waits keeps its callback group busy: in the node's own no image and no answer of the renderer would come in
        self._service = node.create_service(
            Trigger, name, self._serve, qos_profile=MANY, callback_group=ReentrantCallbackGroup()
        )

    def refuse(self, why: str) -> None:
        """Answer all who wait for the next run."""
        with self._lock:
            asking, self._asking = self._asking, []
        for done in asking:
            done.set_result((False, why))

    async def _serve(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        done = Future(executor=self._node.executor)
        self.unanswered += 1
        with self._lock:
            self._asking.append(done)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, daemon=True).start()
        response.success, response.message = await done
        self.unanswered -= 1
        return response

    def _run(self) -> None:
        while True:
            with self._lock:
                asking, self._asking = self._asking, []
                if not asking:
                    self._running = False
                    return
            try:
                said = True, self._work()
            except (OmniadError, OSError) as error:
                said = False, str(error)
            except Exception as error:
                said = False, f"unexpected {type(error).__name__}: {error}"
            for done in asking:
                done.set_result(said)
