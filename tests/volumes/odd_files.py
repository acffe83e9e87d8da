"""What becomes of each of pydicom's odd files: read, or refused by the tag that is named."""

from __future__ import annotations

COLOUR, KIND, PIXELS = "(0028,0004)", "(0008,0016)", "(7FE0,0010)"

# Read: modality, unit, shape, lowest and highest intensity. Refused: the tag that is named.
MISC = {
    "CT_small.dcm": ("CT", "HU", (128, 128, 1), -896, 1167),
    "ExplVR_BigEnd.dcm": COLOUR,
    "JPEG-LL.dcm": ("NM", "a.u.", (256, 1024, 1), 0, 278),
    "JPEG-lossy.dcm": PIXELS,  # a 12-bit JPEG whose scan header is wrong
    "JPGLosslessP14SV1_1s_1f_8b.dcm": ("US", "a.u.", (1024, 768, 1), 0, 255),
    "MR2_J2KI.dcm": ("MR", "a.u.", (1024, 1024, 1), 0, 600 * 3.774114),
    "MR_small.dcm": ("MR", "a.u.", (64, 64, 1), 127, 2145),
    "MR_small_RLE.dcm": ("MR", "a.u.", (64, 64, 1), 127, 2145),
    "MR_small_bigendian.dcm": ("MR", "a.u.", (64, 64, 1), 127, 2145),
    "MR_small_implicit.dcm": ("MR", "a.u.", (64, 64, 1), 127, 2145),
    "MR_truncated.dcm": PIXELS,
    "RG3_J2KI.dcm": ("CR", "a.u.", (1760, 1760, 1), 0, 1023),  # MONOCHROME1
    "US1_J2KI.dcm": COLOUR,
    "US1_J2KR.dcm": COLOUR,
    "badVR.dcm": KIND,
    "color-pl.dcm": KIND,  # a retired ultrasound class
    "eCT_Supplemental.dcm": "(0008,9205)",
    "emri_small.dcm": "(5200,9230)",
    "examples_jpeg2k.dcm": COLOUR,
    "examples_overlay.dcm": ("MR", "a.u.", (484, 300, 1), 0, 1123),
    "examples_palette.dcm": COLOUR,
    "examples_rgb_color.dcm": COLOUR,
    "examples_ybr_color.dcm": KIND,
    "explicit_VR-UN.dcm": ("CT", "HU", (512, 512, 1), -1024, 1186),
    "gdcm-US-ALOKA-16.dcm": COLOUR,
    "liver_1frame.dcm": KIND,
    "no_meta.dcm": KIND,  # begins one byte too late: nothing in it can be found
    "rtdose.dcm": KIND,
}
