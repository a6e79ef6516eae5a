"""Triggers: what waits in the triggerer, and the events that wake a DAG by an `AssetWatcher`."""
