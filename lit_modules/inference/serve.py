"""task=serve: the best epoch of a run as an HTTP service, by uvicorn."""

import asyncio
import math
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import joblib
import numpy as np
import torch
import uvicorn
from omegaconf import DictConfig
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from conf.errors import UserError
from conf.text import printable
from lit_modules.inference.batching import Batcher, Decode
from lit_modules.inference.device import autocast, device_of
from lit_modules.inference.predictor import best_predictor
from lit_modules.inference.service import SECONDS, Service
from lit_modules.inference.thresholds import fit_thresholds
from lit_modules.inference.web_page import page_contract

MAX_CONNECTIONS = 500  # half of the descriptors that a process usually has
IDLE_SECONDS = 10.0
NOT_FINITE = {"error": "the network gives no finite probabilities"}


def serve(cfg: DictConfig, decoder: Callable[[tuple[int, ...]], Decode]) -> None:
    """Serves until a signal; requests that have begun are answered before the end.

    Args:
        cfg: of the task.
        decoder: input shape (C, H, W) → how an image file is decoded to it.

    Raises:
        UserError: the address is not free, or the run has no best epoch or none of images.
    """
    with listen(cfg.host, cfg.port) as listener:
        service = service_of(cfg, decoder)
        config = uvicorn.Config(
            service.application(),
            http=Connection,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=math.ceil(SECONDS),
        )
        host, port = listener.getsockname()[:2]
        print(printable(f"{cfg.name} → http://{f'[{host}]' if ':' in host else host}:{port}"), flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """
    Raises:
        UserError: the address is not free, or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
    except (OSError, OverflowError) as error:
        problem = str(getattr(error, "strerror", error)).partition(" (")[0]
        raise UserError(f"port: {host}:{port} cannot be listened to ({problem}); choose another") from error


def service_of(cfg: DictConfig, decoder: Callable[[tuple[int, ...]], Decode]) -> Service:
    """The service of a run's best epoch."""
    predictor, class_names, input_shape = best_predictor(cfg)
    decode = decoder(input_shape)
    device = device_of(cfg.trainer)
    thresholds = fit_thresholds(cfg, predictor.to(device))

    def classify(inputs: np.ndarray) -> list[dict[str, Any]]:
        with torch.inference_mode(), autocast(device, cfg.trainer.precision):
            probabilities = predictor(torch.from_numpy(inputs).to(device)).cpu().numpy()
        answers = thresholds.answers(probabilities, class_names)
        for answer, row in zip(answers, probabilities.tolist(), strict=True):
            answer["probabilities"] = dict(zip(class_names, row, strict=True))
        return [NOT_FINITE if math.isnan(answer["probability"]) else answer for answer in answers]

    contract = {
        "service": True,
        "class_names": class_names,
        "inputs": {"shape": ["batch", *input_shape]},
        "resize": cfg.datamodule.resize,
        "interpolation": cfg.datamodule.get("interpolation") or "bilinear",
        "coverage": cfg.coverage,
    }
    batcher = Batcher(decode, classify, cfg.datamodule.batch_size, joblib.cpu_count())
    return Service(batcher, page_contract(contract))


class Connection(H11Protocol):
    """Closed after ten seconds without a request: uvicorn waits for the first one without limit."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._check_later()

    def _check_later(self) -> None:
        self.loop.call_later(IDLE_SECONDS, partial(self._check, self.cycle))

    def _check(self, previous: RequestResponseCycle | None) -> None:
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is previous:
            self.transport.close()
        elif not self.transport.is_closing():
            self._check_later()
