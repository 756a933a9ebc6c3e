"""A textbook LightningModule against Litmus, measured as in notes_loop.

python -m tests.benchmarks.plain_lightning --images DIR
"""

from tests.benchmarks.notes_loop import race

if __name__ == "__main__":
    race("plain_lightning", "textbook Lightning", "tests.benchmarks.plain_script", __doc__)
