"""Cutting comparisons into parts.

choice  which rows train, validate and test
parts   the parts, and what they share
"""

from pal._splits.choice import asked_again, choose_rows, share_apart
from pal._splits.parts import Leakage, Parts

__all__ = ["Leakage", "Parts", "asked_again", "choose_rows", "share_apart"]
