"""The demo's patrol over ROS 2: starts robot, renderer and inspector as processes and records what they say.

Everything is heard over DDS as any other program would hear it, on a domain of its own; only the tracks with their
pictures are taken from the inspector's state file, for markers carry none. `omniad_ros.lab.recorded` reads it back.
"""

from __future__ import annotations

import time
from pathlib import Path

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.files import read_json, write_atomically, write_json
from omniad_ros.lab.recorded import HEATMAPS, INDEPENDENT, PICTURES, RECORD, TRACKS, TRUTH
from omniad_ros.ros import processes
from omniad_ros.ros.listening import PatrolListener
from omniad_ros.ros.memory import SavedState
from omniad_ros.ros.sim_robot import camera_parameters

STATE = ".state.json"
"""The inspector's, while it patrols."""
HEATMAP_SIDE, PICTURE_SIDE = 320, 480
PATIENCE = 1.6
"""Seconds: on a slow machine the robot waits for the inspector rather than pass anomalies unseen."""
LONGEST_SECONDS = 900.0


def run_patrol(
    site_path: Path,
    seed: int,
    out: Path,
    progress: Progress = quiet,
    robot: dict | None = None,
    inspector: dict | None = None,
) -> Path:
    """Drive a patrol of the simulated site ``seed`` and record it into ``out``, which is returned.

    robot, inspector: further parameters of the nodes. Raises OmniadError where a process ends before the patrol does.
    """
    out = Path(out)
    for folder in (HEATMAPS, INDEPENDENT, PICTURES):
        (out / folder).mkdir(parents=True)
    site = str(Path(site_path).resolve())
    environment = processes.private_environment()
    truth, state = str((out / TRUTH).resolve()), out.resolve() / STATE
    lines: list[str] = []
    with PatrolListener(environment, out, HEATMAP_SIDE, PICTURE_SIDE) as listener:
        common = {"environment": environment, "output": lines.append}
        nodes = [
            processes.start("nerf_renderer", {"site": site}, **common),
            processes.start(
                "inspector",
                {"site": site, "state_file": str(state), **camera_parameters(), **(inspector or {})},
                **common,
            ),
        ]
        drives = {
            "seed": seed,
            "ground_truth_dir": truth,
            "wait_for_listeners": 2,
            "patience": PATIENCE,
            **(robot or {}),
        }
        driver = processes.start("sim_robot", drives, **common)
        try:
            _follow(nodes, driver, listener, progress)
        finally:
            processes.stop_all([driver, *nodes])
            (out / "log.txt").write_text("\n".join(lines) + "\n")
    write_json(out / RECORD, {"seed": seed, "frames": listener.frames(), "odometry": listener.odometry()})
    if not state.is_file():
        raise OmniadError(f"the inspector left no tracks; {out / 'log.txt'} may tell why")
    write_atomically(out / TRACKS, bytes(read_json(state, SavedState).tracker))
    state.unlink()
    return out


def _follow(nodes, driver, listener, progress: Progress) -> None:
    """Wait until the robot has arrived and the last frame is inspected."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while driver.returncode is None:
        for process in nodes:
            if process.returncode is not None:
                raise OmniadError(
                    f"{process.name} ended during the patrol: {(process.lines or ['it said nothing'])[-1]}"
                )
        if listener.trouble:
            raise OmniadError(f"the patrol cannot begin: {listener.trouble}")
        if time.monotonic() > deadline:
            raise OmniadError("the patrol did not end; is the machine busy with something else?")
        listener.spin(0.2)
        progress(min(0.99, listener.progress), f"the robot patrols, {listener.count} frames inspected")
    if driver.returncode != 0:
        raise OmniadError(
            f"sim_robot ended with status {driver.returncode}: {(driver.lines or ['it said nothing'])[-1]}"
        )
    quiet_since, count = time.monotonic(), listener.count
    while time.monotonic() - quiet_since < 2.5 and time.monotonic() < deadline:
        listener.spin(0.2)
        if listener.count != count:
            quiet_since, count = time.monotonic(), listener.count
