"""Captions of clips: asked of a vision language model, composed, checked, and laid onto the rows of the manifest.

    clips --pictures--> Captioner (endpoint | transformers) --Reply--> compose, check --> Captioned --apply_captions--> rows

Imported here is only what the merge needs; the models are behind mugv.curation.captions.run.
"""

from mugv.curation.captions.apply import apply_captions
from mugv.curation.captions.record import Captioned, read_captioned, write_captioned

__all__ = ["Captioned", "apply_captions", "read_captioned", "write_captioned"]
