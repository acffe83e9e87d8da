"""Leakage outside the pixels, and text inside them."""

from imgsynth.audit.leakage.again import search_again as search_again
from imgsynth.audit.leakage.again import write_searched as write_searched
from imgsynth.audit.leakage.check import find_leakage as find_leakage
from imgsynth.audit.leakage.scan import source_strings as source_strings
