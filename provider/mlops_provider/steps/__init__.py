"""What each stage of the loops does, without Airflow. `step.run` is how all of them are called."""
