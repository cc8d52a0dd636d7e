"""Bytes out: PNG files with their metadata, thumbnails, contact sheets, the gallery and the manifest.

Takes pixels, requests and facts, or finished files. Gives files that appear whole. Never renders.
"""
