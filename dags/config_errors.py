"""Stands among Airflow's import errors while a model.yaml is bad, and names every bad file and place.

The bad models are missing from the other DAG files; all other models go on.
"""

from mlops_provider.config import load_all
from mlops_provider.dagfile import include_of
from mlops_provider.exceptions import ConfigError
from mlops_provider.operators.base import environment

if errors := load_all(include_of(__file__), environment())[1]:
    raise ConfigError("\n" + "\n".join(str(error) for error in errors))
