"""Which kinds of files are opened at all: containers that hold their pictures themselves.

Left out are scripts and playlists that name other files or addresses (concat, HLS, DASH, SDP, Magic Lantern's parts), devices, and
texts drawn as pictures: what such a file shows is not in it. Sound is here to be told from what is no media file.
"""

from __future__ import annotations

_VIDEO = """
    3dostr 4xm amv apng asf av1 avi bink cavsvideo avs2 avs3 cdxl cine dhav dirac dnxhd dv dxa ea evc film_cpk flic flv gif gxf
    h261 h263 h264 hevc hxvs idcin ingenient ipmovie ipu ivf ivr jpegxl_anim jv kux live_flv luodat lxf m4v matroska mjpeg
    mjpeg_2000 mm mods moflex mov mp4 mpeg mpegts mpegvideo mpjpeg mtv mv mvi mxf mxg nsv nut nuv obu ogg pmp psxstr pva r3d rl2
    rm roq rpl ser siff smjpeg smk smush swf thp ty usm vc1 vc1test vividas vivo vmd vvc wc3movie webm wsvqa wtv xmv
    yuv4mpegpipe
"""
_ONE_PICTURE = "bmp_pipe dpx_pipe exr_pipe gif_pipe j2k_pipe jpeg_pipe jpegls_pipe jpegxl_pipe png_pipe tiff_pipe webp_pipe"
_SOUND = "aac ac3 aiff amr ape au caf dts eac3 flac mp3 tta voc w64 wav wv xwma"

FORMATS = ",".join(f"{_VIDEO} {_ONE_PICTURE} {_SOUND}".split())
"""For libav's `format_whitelist`."""
