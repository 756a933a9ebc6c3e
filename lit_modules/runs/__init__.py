"""The folder of a run: restart, report, comparison, sweep, tuning."""
