"""Run folders: resume, restore, report, comparison, sweep, tuning."""
