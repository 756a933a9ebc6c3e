"""The notebook runs as it is."""

from pathlib import Path

import pytest

from tests.conftest import ROOT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


@pytest.mark.filterwarnings("ignore")  # of Jupyter's client
def test_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / ".readme" / "run_in_python.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "Run('logs/notebook': 10 classes, inputs (1, 8, 8))" in str(outputs)
