"""OmniAD for patrol robots: notice what differs from a place's surveyed, normal state."""

__version__ = "0.1.0"
