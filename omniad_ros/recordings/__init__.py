"""Normal images in: a folder, nerfstudio's transforms.json, the MAD layout, a video or a rosbag2 becomes a survey.

`read_survey` looks at everything and changes nothing; `write_survey` undistorts into a site's survey stage,
`export_survey` into a folder of its own.
"""

from omniad_ros.recordings.source import (
    SurveySource,
    export_survey,
    fingerprint,
    read_survey,
    write_survey,
    written_pixel,
)

__all__ = ["SurveySource", "export_survey", "fingerprint", "read_survey", "write_survey", "written_pixel"]
