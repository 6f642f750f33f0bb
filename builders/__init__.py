"""From a Kubernetes version to proven nokmem binaries. See pipeline.py for the order."""

__version__ = "0.1.0"
