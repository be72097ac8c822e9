#!/usr/bin/env bash
# Regenerates src/counterseal/api from protos/. Proto path and Python path are the same, so nothing is rewritten.
set -euo pipefail
python=$1
find src/counterseal/api -name '*_pb2*' -delete
find protos -name '*.proto' | LC_ALL=C sort | PATH="$(dirname "$python"):$PATH" xargs "$python" -m grpc_tools.protoc -I protos \
  --python_out=src --grpc_python_out=src --mypy_out=src --mypy_grpc_out=src
for dir in $(find src/counterseal/api -type d -not -name __pycache__); do
  printf '"""Generated from protos/ by `make protos`; do not edit."""\n' > "$dir/__init__.py"
done
