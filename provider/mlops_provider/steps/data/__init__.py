"""Validate raw data, build features, version what was accepted."""
