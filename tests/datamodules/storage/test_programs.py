"""No program that a file holds is started, and no other file that it names is read."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import EpsImagePlugin

from datamodules.storage.array_file import read_array
from datamodules.storage.array_form import ArrayForm
from datamodules.storage.image_header import open_image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["a.png", "a.eps"])
def test_ghostscript_is_not_started_on_a_file_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program of the file was started")
    )
    (tmp_path / name).write_bytes(EPS)
    with pytest.raises(OSError, match="cannot identify image file"):
        open_image(str(tmp_path / name)).load()


def test_files_that_the_metadata_of_a_tiff_name_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    tifffile.imwrite(tmp_path / "secret.tif", np.full((4, 4), 99, np.uint8))
    pixels = '<Pixels ID="P" DimensionOrder="XYCZT" Type="uint8" SizeX="4" SizeY="4" SizeC="1" SizeZ="1" SizeT="2">'
    parts = "".join(
        f'<TiffData IFD="0" FirstT="{t}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{t}</UUID></TiffData>'
        for t, name in enumerate(("own.tif", "../secret.tif"))
    )
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    ome = f'<OME xmlns="{schema}" UUID="urn:uuid:0"><Image ID="I">{pixels}{parts}</Pixels></Image></OME>'
    own = tmp_path / "data" / "own.tif"
    tifffile.imwrite(own, np.zeros((4, 4), np.uint8), description=ome, metadata=None)
    assert 99 in tifffile.imread(own), "tifffile itself reads it"
    values = read_array(str(own), ArrayForm(None, "depth", None, None))
    assert isinstance(values, np.ndarray) and not values.any()
