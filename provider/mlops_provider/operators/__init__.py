"""When Airflow does it: each operator runs one step of the same name in `mlops_provider.steps`."""
