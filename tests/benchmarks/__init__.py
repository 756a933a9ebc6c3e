"""Throughput, measured: each file is a command, `python -m tests.benchmarks.NAME`. What was measured: README.md."""
