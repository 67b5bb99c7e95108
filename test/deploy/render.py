"""Renders the chart as `helm template` does: values as JSON on stdin, a map of files on stdout. The `helm_python` package
contains Helm itself."""

import json
import sys

from helm_python.chart import Chart, lint

chart, name, namespace = sys.argv[1:4]
values = json.load(sys.stdin)
try:
    loaded = Chart.load(chart)
    loaded.validate_schema(values)
    files = loaded.render(values, name=name, namespace=namespace)
    report = lint(chart, values, strict=True)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
json.dump({"files": files, "lint": report}, sys.stdout)
