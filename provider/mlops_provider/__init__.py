"""Operators, steps and ready-made DAGs that keep machine-learning models alive on Apache Airflow 3."""

__version__ = "0.1.0"
