"""The version of this package, stated here alone."""

__version__ = "0.2.0"
