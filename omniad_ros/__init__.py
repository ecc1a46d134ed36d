"""OmniAD for patrol robots: notice what differs from a place's surveyed, normal state."""

from omniad_ros.renamed import install

__version__ = "0.2.0"

install()
