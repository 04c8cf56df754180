"""mugv: raw video in, a registered and evaluated video generator out (MUG-V 10B, arXiv 2510.17519)."""

__version__ = "0.1.0"
