"""Keeps the inspector's patrol in the site's database, on a thread of its own, and takes verdicts from a topic."""

from __future__ import annotations

import queue
import threading
from collections import Counter

from std_msgs.msg import String

from omniad_ros.core.feedback import OmniadError
from omniad_ros.living.keeping import Known
from omniad_ros.living.kept_patrol import NOT_KEPT, KeptPatrol
from omniad_ros.living.schema import VERDICTS
from omniad_ros.living.settled import Settled
from omniad_ros.living.store import PatrolStore
from omniad_ros.patrol.session import PatrolFrame, PatrolSession
from omniad_ros.patrol.tracks import Track
from omniad_ros.ros.managed import ManagedNode
from omniad_ros.site import Site

UNDO = "undo"


class NodePatrols:
    """The patrols of a node, from its configuration to its cleanup. A database that cannot be used stops no inspection: ``trouble``
    says why nothing is kept."""

    WAITING = 30
    """Frames that may wait to be written; beyond, a frame is not kept, though its tracks are with the next."""

    def __init__(self, node: ManagedNode, site: Site, session: PatrolSession):
        self._node, self._site, self._session = node, site, session
        self._database = node.values.patrols
        self._kept: KeptPatrol | None = None
        self._trouble, self._settled = "", Settled([])
        self._frames: queue.Queue[PatrolFrame | None] = queue.Queue(self.WAITING)
        self._thread: threading.Thread | None = None
        self._verdicts = node.create_subscription(String, "~/verdict", self._hear, 10)
        self._begin()

    @property
    def trouble(self) -> str:
        """Why the patrol is not kept; empty where it is."""
        return self._trouble or (self._kept.trouble if self._kept is not None else "")

    def add(self, frame: PatrolFrame) -> None:
        """Have a frame kept."""
        if self._thread is not None:
            try:
                self._frames.put_nowait(frame)
            except queue.Full:
                self._node.warn("patrols", "the patrol's database is slower than the camera: a frame is not kept")

    def known(self, track: Track) -> Known | None:
        """What is known of a track over all patrols."""
        return None if self._kept is None else self._kept.known(track)

    def loud(self, tracks: list[Track]) -> list[Track]:
        """The tracks of which something is to be said."""
        if self._kept is None:
            return [t for t in tracks if not self._settled.covers(t.center)]
        return [t for t in tracks if not self._kept.silent(t)]

    def name(self, track: Track) -> str:
        """What a track is called: with its finding's state and verdict, where that is known."""
        known = self.known(track)
        return f"track {track.id}" if known is None else str(known)

    def reset(self) -> str:
        """This patrol is over, and another begins; says which."""
        self._end()
        self._begin()
        return f"patrol {self._kept.keeper.patrol.id} has begun" if self._kept is not None else "a patrol has begun"

    def end(self) -> str:
        """This patrol is over; the next frames belong to none until another begins. Says what it found."""
        if self._kept is None:
            return "no patrol was kept"
        number, states = self._kept.keeper.patrol.id, Counter(k.state for k in self._kept.keeper.known.values())
        self._settled = self._kept.settled
        self._end()
        self._session.inspector.settle = self._settled  # what people said holds between patrols, too
        found = ", ".join(f"{count} {state}" for state, count in states.items()) or "nothing found"
        return f"patrol {number} is over: {found}"

    def destroy(self) -> None:
        self._node.destroy_all(self._verdicts)
        self._end()

    def _begin(self) -> None:
        self._trouble = ""
        robot = self._node.get_namespace().strip("/")
        try:
            self._kept = KeptPatrol.begin(self._site, self._session, self._database, robot=robot, source="live")
        except OmniadError as error:
            self._kept, self._trouble = None, f"the patrol is not kept: {error}"
            return
        if self._kept is not None:
            self._thread = threading.Thread(target=self._work, args=(self._kept,), daemon=True)
            self._thread.start()

    def _work(self, kept: KeptPatrol) -> None:
        while True:
            try:
                frame = self._frames.get(timeout=KeptPatrol.LOOK_EVERY)
            except queue.Empty:
                kept.look()
                continue
            if frame is None:
                kept.end()
                return
            kept.add(frame)

    def _end(self) -> None:
        """Write what waits."""
        if self._thread is not None:
            self._frames.put(None)
            self._thread.join(timeout=10.0)
        self._thread = self._kept = None

    # ---- verdicts

    def _hear(self, message: String) -> None:
        """``F12 accepted and why``: on a thread of its own, for another writer may have to be waited for."""
        threading.Thread(target=self._give, args=(message.data,), daemon=True).start()

    def _give(self, said: str) -> None:
        try:
            if self._database == NOT_KEPT:
                raise OmniadError("no patrols are kept here (parameter patrols)")
            name, verdict, comment = read_verdict(said)
            store = PatrolStore.of_site(self._site.path, self._database)
            try:
                if verdict == UNDO:
                    finding = store.take_back(name)
                else:
                    finding = store.give(name, verdict, self._node.get_namespace().strip("/"), comment)
            finally:
                store.close()
            self._node.get_logger().info(f"{finding.name}: {finding.verdict or 'no verdict'}")
        except OmniadError as error:
            self._node.get_logger().warning(f"a verdict is ignored: {error}")


def read_verdict(said: str) -> tuple[str, str, str]:
    """(finding, verdict, comment) of words like ``F12 accepted it stays``. Raises OmniadError where they are none."""
    name, _, rest = said.strip().partition(" ")
    words = rest.strip().replace("false_alarm", "false alarm")
    for verdict in (*VERDICTS, UNDO):
        if words == verdict or words.startswith(f"{verdict} "):
            return name, verdict, words[len(verdict) :].strip()
    raise OmniadError(
        f"'{said[:80]}' is no verdict: send 'FINDING VERDICT COMMENT', the verdict one of {', '.join((*VERDICTS, UNDO))}"
    )
