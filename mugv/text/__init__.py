"""Text encoders behind one interface: captions in, one embedding per token out. The encode stage and generation use them."""

from mugv.text.encoder import Encoder, open_encoder

__all__ = ["Encoder", "open_encoder"]
