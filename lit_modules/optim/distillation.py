"""Distillation: cross-entropy, and the divergence from the probabilities of a trained network, the teacher."""

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt, Interval
from omegaconf import OmegaConf
from torch import Tensor, nn

from conf import received_config, saved_config
from conf.errors import UserError
from conf.nodes import check_nodes
from lit_modules.inference.predictor import Predictor, best_predictor

KEY = "lit_module.loss.teacher"


class Distillation(nn.Module):
    """(1 - teacher_weight) · CE(student, targets) + teacher_weight · T² · KL(teacher_T ‖ student_T).

    Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531, section 2. teacher_T and
    student_T are the probabilities at temperature T. The teacher receives the inputs that the student receives,
    augmented and mixed; it is in eval mode, and not part of the state dict. In eval mode the loss is CE alone, so that
    val/loss and test/loss compare with those of other runs.

    Args:
        class_names: of the student, in the order of its labels; the teacher's may be in another order.
        input_shape: (C, *spatial) of a sample.
        teacher: folder of the run whose best epoch is the teacher; null: there is none, for evaluation.
        teacher_weight: see above.
        temperature: T; above 1, small probabilities of the teacher count more.

    Raises:
        UserError: the folder holds no trained run, or one of other classes or inputs.
    """

    order: Tensor
    teacher: Predictor

    def __init__(
        self,
        class_names: list[str],
        input_shape: tuple[int, ...],
        *,
        teacher: str | None,
        teacher_weight: Annotated[float, Interval(ge=0, le=1)],
        temperature: Annotated[float, Gt(0)],
    ) -> None:
        super().__init__()
        self.teacher_weight = teacher_weight
        self.temperature = temperature
        if teacher is None:
            return
        network, names = open_teacher(Path(teacher).expanduser(), class_names, input_shape)
        order = torch.tensor([names.index(name) for name in class_names])
        self.register_buffer("order", order, persistent=False)
        self.__dict__["teacher"] = network  # not a submodule: checkpoints do not hold it

    def forward(self, logits: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar.

        Args:
            logits: float `[N, num_classes]`
            targets: int64 `[N]`, or class probabilities, float32 `[N, num_classes]`
            inputs: float `[N, C, *spatial]`
        """
        hard = F.cross_entropy(logits, targets)
        if not self.training:
            return hard
        if self.teacher.white.device != inputs.device:
            self.teacher.to(inputs.device)
        with torch.no_grad():  # its outputs take part in backward, unlike those of inference mode
            teacher_logits = self.teacher.logits(inputs)[:, self.order]
        soft = F.kl_div(
            (logits.float() / self.temperature).log_softmax(1),
            (teacher_logits / self.temperature).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.teacher_weight) * hard + self.teacher_weight * self.temperature**2 * soft


def open_teacher(folder: Path, class_names: list[str], input_shape: tuple[int, ...]) -> tuple[Predictor, list[str]]:
    """The network of the best epoch of a run, and its class names. Executes no code from the folder.

    Raises:
        UserError: see `Distillation`.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{KEY}: {folder} holds no config.yaml; give the folder of a run, such as logs/digits/…")
    module = saved_config.read(folder).get("lit_module")
    net = module.get("net") if isinstance(module, dict) else None
    if not isinstance(net, dict) or "_target_" not in net:
        raise UserError(f"{KEY}: {folder / 'config.yaml'} has no lit_module.net; give the folder of a run")
    config = {"lit_module": {"net": net}}  # what is used, and so what is checked
    received_config.check_folder(folder)
    received_config.check(folder, config, [])
    check_nodes(config)
    network, names, shape = best_predictor(OmegaConf.create({**config, "run_dir": str(folder), "calibrate": False}))
    if sorted(names) != sorted(class_names):
        raise UserError(f"{KEY}: {folder} has the classes {names}, the data {class_names}; choose a run on the same")
    if shape != tuple(input_shape):
        fix = "give both the same datamodule.image_size and channels"
        raise UserError(f"{KEY}: {folder} takes inputs of {shape}, this network {tuple(input_shape)}; {fix}")
    return network.requires_grad_(False), names
