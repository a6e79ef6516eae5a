#!/bin/sh
# Builds the virtual environment named by $1 from constraints.txt, with compiled bytecode: Airflow starts twice as fast.
set -eu
venv=$1
unset PYTHONDONTWRITEBYTECODE
"${PYTHON:-python3}" -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else
    f"Python 3.11, 3.12 or 3.13 is needed; this is {v[0]}.{v[1]}. Name another one: make install PYTHON=python3.12")'
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
echo "Installing the pinned packages into $venv (a few minutes the first time)"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt pip uv
# uv is fast but does not read pip's configuration: where it finds no index, pip does the job.
"$venv/bin/uv" pip install -q --python "$venv/bin/python" --compile-bytecode -c constraints.txt -e '.[all]' --group dev || {
    echo "uv could not install; trying pip, which is slower"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[all]' --group dev
}
# The wheels of LightGBM do not bring the OpenMP runtime that they need.
"$venv/bin/python" -c 'import lightgbm' 2>/dev/null || {
    echo "LightGBM cannot be loaded; most likely the OpenMP runtime is missing (Debian: apt-get install libgomp1):" >&2
    "$venv/bin/python" -c 'import lightgbm' 2>&1 | tail -n 1 >&2
    exit 1
}
"$venv/bin/python" -c 'import mlops_provider, airflow' && echo "Installed."
