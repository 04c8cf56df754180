"""Video files: probe, decode, encode, resize, and the sample footage."""
