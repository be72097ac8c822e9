"""Policy files and what they mean: strict YAML, compiled conditions, lints and tests. No I/O, no database."""
