"""Helpers for every package: files, claims, processes, hashing, secrets, sockets, text, validation, YAML, receipts.

Takes and gives paths, bytes and plain values. Never imports another package of Darkroom, or knows of pictures,
checkpoints and servers.
"""
