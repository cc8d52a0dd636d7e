"""Bytes out: PNG files with their metadata, thumbnails, contact sheets, the gallery and the manifest.

Takes pixels with their requests and facts, or finished picture files. Gives bytes, and files written atomically. Never
renders.
"""
