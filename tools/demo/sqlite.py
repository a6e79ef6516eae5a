"""How long the parts of Airflow wait for a database that another one writes: what `[database] sql_alchemy_connect_args` names.

The API server writes its audit log on its event loop. If a request that has written waits for that loop to go on, neither can,
until the wait ends with an error: it is short, and whoever asked asks again. The scheduler would end; it waits for long.
"""

from __future__ import annotations

SHORT = {"timeout": 1.0}
LONG = {"timeout": 30.0}
