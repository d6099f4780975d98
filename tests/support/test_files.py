"""Files are written whole or not at all."""

import pytest
from PIL import Image

from excise.errors import OutputError
from excise.support.files import write_atomically, write_png


def test_a_picture_is_a_png_whatever_its_name(tmp_path):
    image = Image.new("RGB", (3, 2), (10, 20, 30))
    write_png(tmp_path / "new" / "picture.cache", image, durable=False)
    with Image.open(tmp_path / "new" / "picture.cache") as read:
        assert read.format == "PNG"
        assert read.getpixel((2, 1)) == (10, 20, 30)


def test_a_failed_write_leaves_the_old_content_and_no_partial_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(partial):
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
