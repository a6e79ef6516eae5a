"""The name that Airflow derives from the distribution's when it looks for example DAGs; without it, it logs a traceback.

There are none here, on purpose: examples of sensors and watchers would begin to ask servers that nobody has configured. They
lie in `mlops_provider/example_dags`, to be copied.
"""
