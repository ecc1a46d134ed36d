"""The operator's page: what was found in the patrols of some sites, and what people say of it. Works without a network."""

from omniad_ros.web.app import create_app
from omniad_ros.web.serving import ServeOptions, serve

__all__ = ["ServeOptions", "create_app", "serve"]
