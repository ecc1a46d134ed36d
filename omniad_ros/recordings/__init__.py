"""Images in, normal ones and those of patrols: a folder, nerfstudio's transforms.json, the MAD layout, a video, a rosbag2 or live
messages become one kind of survey and one kind of frames.

`read_survey` looks at everything and changes nothing; `write_survey` undistorts into a site's survey stage,
`export_survey` into a folder of its own; `open_frames` opens a recorded patrol.
"""

from omniad_ros.recordings.source import Frame, FrameSource, SurveySource
from omniad_ros.recordings.survey import (
    export_survey,
    fingerprint,
    open_frames,
    read_survey,
    write_survey,
    written_pixel,
)

__all__ = [
    "Frame", "FrameSource", "SurveySource", "export_survey", "fingerprint", "open_frames", "read_survey", "write_survey",
    "written_pixel",
]  # fmt: skip
