"""Public networks that see images: random weights, or weights of public images that came inside a package.

No weight here follows any patient. Models learn through these networks (``models/mepf.py``), measurements look through
them (``measure/encoders.py``).
"""
