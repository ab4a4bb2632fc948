"""Contact sheets: sizes, labels, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffgen.errors import UsageError
from diffgen.media import sheet

PIXELS = (np.arange(24 * 16 * 3, dtype=np.uint8) % 251).reshape(16, 24, 3)


def test_contact_sheet():
    pictures = [PIXELS, Image.new("RGB", (128, 100), "red"), np.zeros((64, 64, 3), np.float32)]
    page = sheet.contact_sheet(pictures, labels=["short", "a very long label " * 20, ""])
    plain = sheet.contact_sheet(pictures)
    assert page.mode == "RGB" and page.width == plain.width == 2 * 128 + 3 * 8
    assert page.height > plain.height == 2 * 100 + 3 * 8
    assert pictures[1].size == (128, 100)
    row = sheet.contact_sheet(pictures, columns=9)
    assert row.width == 3 * 128 + 4 * 8
    assert max(sheet.contact_sheet([np.zeros((900, 900, 3))] * 9, max_side=600).size) <= 620
    assert sheet.contact_sheet([PIXELS], labels=["x" * 500]).width == 24 + 16
    assert np.asarray(sheet.contact_sheet([PIXELS], labels=["Bär 猫"])).min() < 50
    assert sheet._ascii("Bär ﬁx 猫") == "Bar fix ?"
    for bad in ({"images": []}, {"images": pictures, "labels": ["a"]}, {"images": pictures, "columns": 0}):
        with pytest.raises(UsageError):
            sheet.contact_sheet(**bad)
