"""Connections of the loops, resolved in Airflow and handed to steps as arguments."""
