"""A textbook LightningModule against Litmus, as notes_loop does it.

python -m tests.benchmarks.plain_lightning --images DIR
"""

from tests.benchmarks.notes_loop import race

if __name__ == "__main__":
    race("plain_lightning", "textbook Lightning", "tests.benchmarks.plain_script", __doc__)
