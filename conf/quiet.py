"""What libraries say that nobody needs to hear."""

import logging
import warnings


def quieten() -> None:
    """Silences what Lightning says of things that are as they must be."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # at INFO they advertise
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of a deprecated call
    warnings.filterwarnings("ignore", "ReduceLROnPlateau conditioned on metric")  # LitClassifier steps it
    warnings.filterwarnings("ignore", "The ``compute`` method of metric Scores was called before")  # an empty share
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # as it must on resume
    warnings.filterwarnings("ignore", "The `srun` command is available")  # on a cluster's login node, too
