"""`omniad` as a process, with trainings shorter than its options can ask for, and an inspection that is saved after each frame.

`python test/shortened.py build SURVEY --out SITE ...`; everything else is as a user has it.
"""

import sys
from dataclasses import replace

from omniad_ros import cli
from omniad_ros.commands.options import SiteOptions

DETECTOR = {"distillation_steps": 20, "comparison_steps": 60, "adaptation_steps": 30}
FIELD = ("--max-num-iterations", "150")


def shorten() -> None:
    whole = SiteOptions.build_options

    def build_options(self, nerfstudio_options):
        options = whole(self, (*FIELD, *nerfstudio_options))
        return replace(options, novel_views=8, detector=(*options.detector, *DETECTOR.items()))

    SiteOptions.build_options = build_options


if __name__ == "__main__":
    shorten()
    if "inspect" in sys.argv:
        from omniad_ros.report import recorded

        recorded.SAVE_EVERY = 0.0
    sys.exit(cli.main())
