"""Scores of a clip: one small class each, with the pictures that it reads declared, in the units of the recipe's thresholds."""

from mugv.curation.scores.base import Box as Box
from mugv.curation.scores.base import Clip as Clip
from mugv.curation.scores.base import Input as Input
from mugv.curation.scores.base import Score as Score
from mugv.curation.scores.borders import find_borders as find_borders
from mugv.curation.scores.build import build_scores as build_scores
from mugv.curation.scores.build import measure as measure
from mugv.curation.scores.build import pictures_needed as pictures_needed
from mugv.curation.scores.looks import embed as embed
from mugv.curation.scores.motion import motion as motion
from mugv.curation.scores.sharpness import sharpness as sharpness
from mugv.curation.scores.sharpness import shrink as shrink
