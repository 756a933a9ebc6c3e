"""The folder of a received run holds files and folders, and nothing by which a file elsewhere would be written."""

import os
import re
from pathlib import Path

import pytest

from conf import saved_config
from conf.errors import UserError
from tests.configs import configure
from tests.saved_runs import save


@pytest.mark.parametrize("target", ["../elsewhere", "..", "/", "../run/config.yaml"])
@pytest.mark.parametrize("link", ["predictions", "checkpoints/best.ckpt", ".lock", ".model.pt.tmp", "report"])
def test_links_that_leave_a_received_folder_are_rejected(tmp_path: Path, link: str, target: str) -> None:
    save(tmp_path / "run")
    path = tmp_path / "run" / link
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: is a link that leaves its folder; "):
        saved_config.base_config([f"run={tmp_path / 'run'}"])


def test_named_pipe_in_a_received_folder_is_rejected(tmp_path: Path) -> None:
    save(tmp_path)
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(UserError, match=r"metrics\.csv: is neither a file nor a folder; "):
        configure(f"run={tmp_path}")


def test_hard_link_in_a_received_folder_is_rejected(tmp_path: Path) -> None:
    save(tmp_path / "run")
    (tmp_path / "thesis.tex").touch()
    os.link(tmp_path / "thesis.tex", tmp_path / "run" / ".lock")
    with pytest.raises(UserError, match=r"\.lock: is a hard link; "):
        saved_config.base_config([f"run={tmp_path / 'run'}"])


def test_best_checkpoint_is_a_link_within_its_folder(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").symlink_to("epoch=000.ckpt")
    assert configure(f"run={tmp_path}").run == str(tmp_path)
