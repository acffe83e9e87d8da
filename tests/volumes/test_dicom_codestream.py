"""Compressed frames that are not what the header says, or not whole: refused before a decoder fills in the rest."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate, generate_frames

from imgsynth.types import InputError
from imgsynth.volumes.dicom_codestream import jpeg2000_is_whole
from imgsynth.volumes.dicom_read import read_dicom_series


@pytest.fixture
def compressed(make_slice, save, tmp_path):
    """A slice in JPEG 2000, and what writes it again with another codestream."""
    stored = (np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 31) % 4000
    path = save(make_slice(0, stored), tmp_path / "one.dcm")
    dataset = dcmread(path)
    dataset.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    dataset.save_as(path)
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)

    def write(codestream: bytes):
        dataset.PixelData = encapsulate([codestream])
        dataset.save_as(path)
        return path

    assert np.array_equal(read_dicom_series([path]).array[:, :, 0].T, stored - 1024.0)
    return frame, write


def test_every_cut_of_a_codestream_is_refused_by_name(compressed):
    frame, write = compressed
    end = frame.rfind(b"\xff\xd9") + 2
    assert jpeg2000_is_whole(frame) and jpeg2000_is_whole(frame[:end])
    assert not any(jpeg2000_is_whole(frame[:cut]) for cut in range(60, end))
    with pytest.raises(InputError, match=r"one\.dcm: got Pixel Data \(7FE0,0010\) a frame that is cut short"):
        read_dicom_series([write(frame[: end // 2])])


@pytest.mark.parametrize("change", [{8: 64_000}, {12: 2**31}, {8: 63}, {16: 1}], ids=str)
def test_another_size_than_the_header_says_is_refused(compressed, change):
    frame, write = compressed
    data = bytearray(frame)
    for at, number in change.items():
        struct.pack_into(">I", data, data.index(b"\xff\x4f\xff\x51") + at, number)
    with pytest.raises(InputError, match="48×64, as the header says"):
        read_dicom_series([write(bytes(data))])


@pytest.mark.parametrize("tile", [0, 1, 32, 2**31])
def test_tiles_that_are_not_there_are_missed(compressed, tile):
    frame, write = compressed
    data = bytearray(frame)
    struct.pack_into(">I", data, data.index(b"\xff\x4f\xff\x51") + 24, tile)
    if tile >= 64:  # one tile all the same
        assert jpeg2000_is_whole(bytes(data))
    else:
        with pytest.raises(InputError, match="cut short"):
            read_dicom_series([write(bytes(data))])


def test_jpeg_is_asked_for_its_size_and_its_end(make_slice, save, tmp_path):
    image = pytest.importorskip("PIL.Image")
    import io

    target = io.BytesIO()
    image.fromarray(np.full((40, 56), 77, np.uint8)).save(target, "JPEG")
    dataset = make_slice(0, np.zeros((40, 56), np.uint8), BitsStored=8, HighBit=7)
    path = save(dataset, tmp_path / "one.dcm")

    def write(codestream: bytes, **changes: int):
        dataset = dcmread(path)
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
        dataset.PixelData = encapsulate([codestream])
        dataset["PixelData"].VR = "OB"
        dataset.save_as(tmp_path / "jpeg.dcm")
        return [tmp_path / "jpeg.dcm"]

    whole = target.getvalue()
    assert float(np.abs(read_dicom_series(write(whole)).array + 1024 - 77).max()) <= 1
    assert read_dicom_series(write(whole + b"\xff")).array.shape == (56, 40, 1)
    with pytest.raises(InputError, match="cut short"):
        read_dicom_series(write(whole[:-20]))
    with pytest.raises(InputError, match="40×56 pixels; expected 41×56"):
        read_dicom_series(write(whole, Rows=41))
