"""What is known of a site over many patrols: findings, what each patrol saw of them, and what people said of them.

>>> from omniad_ros.living import PatrolStore
"""

from omniad_ros.living.schema import STATES, VERDICTS, Finding, Patrol, Sighting, Verdict, Zone
from omniad_ros.living.store import PatrolStore

__all__ = ["STATES", "VERDICTS", "Finding", "Patrol", "PatrolStore", "Sighting", "Verdict", "Zone"]
