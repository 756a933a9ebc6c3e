"""Scores, curves, intervals and figures of predictions. Knows no Trainer."""
