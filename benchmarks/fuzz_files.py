"""Broken DICOM and NIfTI files by the thousand, each from its seed, for ``fuzz.py`` to read.

Bytes flipped, cut, overwritten; sizes and counts that no image has; decompression bombs.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable

import nibabel as nib
import numpy as np
from pydicom import Dataset, Sequence, dcmwrite, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

SYNTAXES = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian,
            uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless)  # fmt: skip
ABSURD = (0, 1, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
MIB = 1 << 20


def fuzzed(seed: int) -> tuple[str, bytes]:
    """File name (which says what was done) and content of one broken file."""
    random = np.random.default_rng((20261122, seed))
    if seed % 10 == 9:
        name = list(BOMBS)[seed // 10 % len(BOMBS)]
        return f"{seed:05d}-bomb-{name}", BOMBS[name](random)
    kind, data = sound(seed)
    how = list(DAMAGES)[int(random.integers(len(DAMAGES)))]
    packed = kind.endswith(".gz") and bool(random.integers(2))
    data = DAMAGES[how](gzip.decompress(data) if packed else data, random)
    return f"{seed:05d}-{how}-{kind}", gzip.compress(data, 1) if packed else data


def sound(seed: int) -> tuple[str, bytes]:
    """A sound file, of the kind that ``seed`` asks for."""
    kind = seed // 2 % (len(SYNTAXES) + 5)
    if kind < len(SYNTAXES):
        return f"{SYNTAXES[kind].keyword}.dcm", ct_slice(SYNTAXES[kind])
    if kind == len(SYNTAXES):
        return "enhanced.dcm", enhanced_mr()
    return [("plain.nii", nifti()), ("packed.nii.gz", gzip.compress(nifti(), 1)),
            ("two.nii.gz", gzip.compress(nifti(nib.Nifti2Image), 1)),
            ("scaled.nii", nifti(slope=2.5))][kind - len(SYNTAXES) - 1]  # fmt: skip


# Sound files ----------------------------------------------------------------------------------------------------------


def ct_slice(syntax: uid.UID, **changes: object) -> bytes:
    """A CT slice with what headers have: sequences, private elements, padding."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.CTImageStorage, "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    dataset.ImageType, dataset.Modality = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT"
    dataset.PatientID, dataset.PatientSex, dataset.PatientAge = "fuzz-1", "F", "061Y"
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3.9"
    dataset.ReferencedImageSequence = Sequence([inner, inner])
    block = dataset.private_block(0x0019, "FUZZ", create=True)
    block.add_new(1, "OB", bytes(300))
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-10, -20, 100], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.75, 0.5], 5
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.PixelPaddingValue = 1, -1024, 0
    stored = (np.arange(32 * 40, dtype=np.uint16).reshape(32, 40) * 37) % 3000
    return written(with_pixels(dataset, stored, changes), syntax)


def enhanced_mr(**changes: object) -> bytes:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.EnhancedMRImageStorage, "1.2.3.5"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", "1.2.3.3"
    dataset.ImageType, dataset.Modality, dataset.PatientID = ["ORIGINAL", "PRIMARY", "M", "NONE"], "MR", "fuzz-1"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.NumberOfFrames = 1, "MONOCHROME2", 6
    measures, place, turn, scale, content, shared = (Dataset() for _ in range(6))
    measures.PixelSpacing, measures.SliceThickness = [1, 1], 2
    turn.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([turn])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for k in range(6):
        group, place, scale, content = (Dataset() for _ in range(4))
        place.ImagePositionPatient, content.StackID, content.TemporalPositionIndex = (
            [0, 0, 2 * (k % 3)],
            "1",
            k // 3 + 1,
        )
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = k + 1, 0, "US"
        group.PlanePositionSequence, group.FrameContentSequence = Sequence([place]), Sequence([content])
        group.PixelValueTransformationSequence = Sequence([scale])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    stored = np.arange(6 * 8 * 10, dtype=np.uint16).reshape(6, 8, 10)
    return written(with_pixels(dataset, stored, changes), uid.ExplicitVRLittleEndian)


def with_pixels(dataset: Dataset, stored: np.ndarray, changes: dict[str, object]) -> Dataset:
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def written(dataset: Dataset, syntax: uid.UID) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
    if syntax == uid.ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, np.uint16).byteswap().tobytes()
    if syntax.is_encapsulated and dataset.PixelData[-4:] != b"\xfe\xff\xdd\xe0":
        dataset.compress(syntax, generate_instance_uid=False)
    target = io.BytesIO()
    dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()


def nifti(image: type = nib.Nifti1Image, slope: float = 1.0) -> bytes:
    made = image(np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10), np.diag([1.0, 2, 3, 1]))
    made.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"fuzz"))
    made.header.set_slope_inter(slope, 3)
    return made.to_bytes()


# Damages --------------------------------------------------------------------------------------------------------------


def flip(data: bytes, random: np.random.Generator) -> bytes:
    """Up to 64 bits anywhere."""
    out = bytearray(data)
    for at in random.integers(len(out), size=int(random.integers(1, 65))):
        out[at] ^= 1 << int(random.integers(8))
    return bytes(out)


def flip_header(data: bytes, random: np.random.Generator) -> bytes:
    """Up to 16 bits of the first kilobyte."""
    return flip(data[:1024], random)[:1024] + data[1024:]


def cut(data: bytes, random: np.random.Generator) -> bytes:
    return data[: int(random.integers(len(data)))]


def absurd(data: bytes, random: np.random.Generator) -> bytes:
    """One to four numbers of the header overwritten by extreme ones."""
    out = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        width = int(random.choice((2, 4, 8)))
        number = ABSURD[int(random.integers(len(ABSURD)))] & (1 << 8 * width) - 1
        at = int(random.integers(max(1, min(len(out), 1400) - width)))
        out[at : at + width] = number.to_bytes(width, "little" if random.integers(4) else "big")
    return bytes(out)


def repeat(data: bytes, random: np.random.Generator) -> bytes:
    """A piece twice, so that all that follows is displaced."""
    start, stop = sorted(int(n) for n in random.integers(len(data), size=2))
    return data[:stop] + data[start:stop] + data[stop:]


def drop(data: bytes, random: np.random.Generator) -> bytes:
    start = int(random.integers(len(data)))
    return data[:start] + data[start + int(random.integers(1, 200)) :]


def noise(data: bytes, random: np.random.Generator) -> bytes:
    """A sound beginning, then nothing but noise."""
    start = int(random.integers(128, min(len(data), 1500)))
    return data[:start] + random.bytes(len(data) - start)


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    f.__name__: f for f in (flip, flip_header, cut, absurd, repeat, drop, noise)
}


# Bombs ----------------------------------------------------------------------------------------------------------------


def zeros(size: int, wrap: int) -> bytes:
    """``size`` bytes of zeros, deflated to a thousandth; ``wrap`` is zlib's: -15 bare, 31 gzip (without its sums)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wrap)
    head = packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)  # stands by itself, and so can be repeated
    return head + block * (size // MIB) + b"\x03\x00" + bytes(8 * (wrap > 15))


def deflated_dicom(random: np.random.Generator) -> bytes:
    data = ct_slice(uid.DeflatedExplicitVRLittleEndian)
    meta = 132 + 12 + struct.unpack_from("<I", data, 140)[0]  # File Meta Information, by its group length
    return data[:meta] + zeros(int(random.integers(2, 9)) * 1024 * MIB, -15)


def rle_of_many_pixels(random: np.random.Generator) -> bytes:
    side = int(random.integers(40_000, 65_535))
    data = ct_slice(uid.RLELossless, PixelData=encapsulate([bytes(64) + b"\x81\0" * 2000]))
    for element, was in ((0x10, 32), (0x11, 40)):  # Rows, Columns
        head = struct.pack("<HH2sH", 0x28, element, b"US", 2)
        assert data.count(head + struct.pack("<H", was)) == 1
        data = data.replace(head + struct.pack("<H", was), head + struct.pack("<H", side))
    return data


def jpeg2000_of_many_pixels(random: np.random.Generator) -> bytes:
    """The header says 32×40; the codestream says millions."""
    data = bytearray(ct_slice(uid.JPEG2000Lossless))
    at = data.index(b"\xff\x4f\xff\x51") + 8
    struct.pack_into(">II", data, at, *(int(n) for n in random.integers(30_000, 2**31, size=2)))
    return bytes(data)


def jpeg2000_of_many_tiles(random: np.random.Generator) -> bytes:
    data = bytearray(ct_slice(uid.JPEG2000Lossless))
    struct.pack_into(">II", data, data.index(b"\xff\x4f\xff\x51") + 24, 1, 1)
    return bytes(data)


def many_frames(random: np.random.Generator) -> bytes:
    return enhanced_mr(NumberOfFrames=str(int(random.integers(10**6, 2**31))))


def deep_sequences(random: np.random.Generator) -> bytes:
    depth = int(random.integers(500, 30_000))
    data = ct_slice(uid.ExplicitVRLittleEndian)
    at = data.index(b"\x08\0\x40\x11SQ")
    nest = (b"\x08\0\x40\x11SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\0\xe0" + b"\xff" * 4) * depth
    return data[:at] + nest + data[at:]


def nifti_gz(shape: tuple[int, ...], body: int, offset: float = 352.0, extended: bool = False) -> bytes:
    header = bytearray(gzip.decompress(gzip.compress(nifti()))[:352])
    struct.pack_into("<8h", header, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into("<f", header, 108, offset)
    header[348] = int(extended)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = packer.compress(bytes(header)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + zeros(body, -15)[:-2] + b"\x03\x00" + bytes(8)


def nifti_of_zeros(random: np.random.Generator) -> bytes:
    side = int(random.integers(800, 1600))
    return nifti_gz((side, side, side), 2 * side**3)


def nifti_without_data(random: np.random.Generator) -> bytes:
    return nifti_gz((32767, 32767, int(random.integers(100, 32767))), 0)


def nifti_far_data(random: np.random.Generator) -> bytes:
    return nifti_gz(
        (8, 9, 10), int(random.integers(2, 9)) * 1024 * MIB, offset=float(random.integers(10**9, 9 * 10**9))
    )


def nifti_of_extensions(random: np.random.Generator) -> bytes:
    return nifti_gz((8, 9, 10), 2048 * MIB, offset=float(random.integers(10**8, 2 * 10**9)), extended=True)


def long_tail(random: np.random.Generator) -> bytes:
    """A sound image before gigabytes of zeros, which nobody needs to unpack."""
    return nifti_gz((8, 9, 10), int(random.integers(1, 9)) * 1024 * MIB)


BOMBS: dict[str, Callable[[np.random.Generator], bytes]] = {
    "deflated.dcm": deflated_dicom, "rle.dcm": rle_of_many_pixels, "j2k.dcm": jpeg2000_of_many_pixels,
    "tiles.dcm": jpeg2000_of_many_tiles, "frames.dcm": many_frames, "deep.dcm": deep_sequences,
    "zeros.nii.gz": nifti_of_zeros, "empty.nii.gz": nifti_without_data, "far.nii.gz": nifti_far_data,
    "extensions.nii.gz": nifti_of_extensions, "tail.nii.gz": long_tail,
}  # fmt: skip
