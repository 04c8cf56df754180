"""Where shots begin and end, found while the frames stream by: no second decode, and frames are kept only as long as a span needs."""

from mugv.curation.shots.stream import Tagged as Tagged
from mugv.curation.shots.stream import tag_frames as tag_frames
