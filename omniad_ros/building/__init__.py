"""Survey → site, and a site's detector brought to new poses: the stages in order, each handed what the earlier ones made."""

from omniad_ros.building.build import BuildOptions, build_site

__all__ = ["BuildOptions", "build_site"]
