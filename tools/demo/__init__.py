"""The demo: real Airflow, MLflow and git services on loopback, and the replay that drives them."""
