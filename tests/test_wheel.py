"""A wheel puts one package into site-packages, and needs no checkout."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def test_installed_wheel_trains_resumes_and_predicts(tmp_path: Path) -> None:
    building = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={tmp_path}", str(ROOT)]
    subprocess.run(building, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    top_level = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"litmus"}

    venv.create(tmp_path / "env", with_pip=True, symlinks=True)
    python, litmus = tmp_path / "env" / "bin" / "python", tmp_path / "env" / "bin" / "litmus"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    (site_packages,) = (tmp_path / "env").glob("lib/*/site-packages")
    # The dependencies of this environment, without its editable install, whose .pth file is not read from here.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(*command: str | Path) -> str:
        result = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "litmus +experiment=digits" in run(litmus, "--help")
    run(litmus, "+experiment=digits", "epochs=1", "run_dir=run", "devices=cpu")
    run(python, "-m", "litmus", "run=run", "epochs=2", "devices=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    assert (empty / "run" / "checkpoints" / "epoch=001.ckpt").is_file()
    answer = run(python, "-c", "from litmus import load_run; print(load_run('run').module.net.__class__.__module__)")
    assert answer == "lit_modules.networks.cnn\n"
    assert {path.name for path in empty.iterdir()} == {"run"}
