"""Normal images in: a folder, nerfstudio's transforms.json, the MAD layout or a video becomes a survey.

`read_survey` looks at everything and changes nothing; `write_survey` undistorts into a site's survey stage.
"""

from omniad_ros.survey.source import SurveySource, fingerprint, read_survey, write_survey

__all__ = ["SurveySource", "fingerprint", "read_survey", "write_survey"]
