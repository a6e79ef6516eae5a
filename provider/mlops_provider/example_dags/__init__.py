"""DAGs to start from. Airflow does not load them; copy one into your DAG folder and change it."""
